import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from srvp_fd_jax.reports import plots
from srvp_fd_jax.significance.along import Along
from srvp_fd_jax.significance.extrapolation import Curve, Limit
from srvp_fd_jax.significance.null_distribution import Floor

FLOOR = Floor(1.0, 0.5, 2.0, 0.005, 3.2, 300, 200)
INTERVAL = (2.5, 3.9)


def along(image_format):
    x = np.arange(4, dtype=np.float32)
    places = Along(np.arange(4), x + 1, x, x + 0.5, np.full(4, 0.5))
    return plots.plot_along(places, np.array([False, False, True, True]), 5, image_format)


def curve(image_format):
    subsets = Curve(np.array([20, 110, 200]), np.ones((3, 5), np.float32))
    return plots.plot_curve(subsets, Limit(0.9, 3.0, 110), FLOOR, INTERVAL, image_format)


def floor(image_format):
    return plots.plot_floor(FLOOR, INTERVAL, ("a < b", "c"), image_format)


@pytest.mark.parametrize("draw", [along, curve, floor])
def test_inlined_plots_have_the_colours_of_the_page_and_their_own_identifiers(draw):
    svg = draw("svg")
    assert draw("svg") == svg
    text = plots.inlined(svg, "one", 'say "<so>"')
    root = ElementTree.fromstring(
        text.replace("<svg", '<svg xmlns:xlink="http://www.w3.org/1999/xlink"', 1)
    )
    assert root.get("aria-label") == 'say "<so>"'
    assert not {"width", "height"} & set(root.keys())
    assert not re.search(r"#[0-9a-f]{6}|fill: (white|#fff)|<style|<metadata|https?://", text)
    assert "currentColor" in text
    assert "var(--red)" in text
    names = re.findall(r'\bid="([^"]*)"', text)
    assert len(set(names)) == len(names)
    assert all(name.startswith("one-") for name in names)
    assert set(re.findall(r'(?:url\(|xlink:href=")#([^")]*)', text)) <= set(names)


def test_significant_places_are_marked():
    text = along("svg").decode()
    assert text.count("significant") == 1
    assert "frame of the clip at which 5 frames begin" in text
    assert Image.open(io.BytesIO(along("png"))).format == "PNG"


def test_contact_sheet_shows_a_clip_a_row():
    clips = np.random.default_rng(0).random((3, 6, 64, 64, 1), np.float32)
    sheet = np.asarray(Image.open(io.BytesIO(plots.contact_sheet(list(clips), "png"))))
    assert sheet.shape == (3 * 66, 6 * 66)
    tile = sheet[66 + 2 : 2 * 66, 5 * 66 + 2 :]
    np.testing.assert_array_equal(tile, np.round(255 * clips[1, 5, ..., 0]))
    assert plots.shown_frames(31) == list(range(0, 31, 2))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("length", [1, 5])
def test_animations_play_all_frames_again_and_again(length, channels):
    levels = np.linspace(0.2, 0.8, length, dtype=np.float32)
    clip = np.ones((length, 32, 32, channels), np.float32) * levels[:, None, None, None]
    image = Image.open(io.BytesIO(plots.animation(clip)))
    assert image.format == "WEBP"
    assert image.n_frames == length
    for i in range(length):
        image.seek(i)
        image.load()
        assert length == 1 or image.info["duration"] == 125
        np.testing.assert_allclose(np.asarray(image) / 255, levels[i], atol=0.03)
    assert length == 1 or image.info["loop"] == 0
