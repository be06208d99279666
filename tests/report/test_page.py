import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from srvp_fd_jax import cli
from srvp_fd_jax.demo import corruptions
from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.distances.statistics import FeatureStatistics
from srvp_fd_jax.passes import Collected, collect, evaluate, load_calculators
from srvp_fd_jax.protocols import find_protocol
from srvp_fd_jax.report.extrapolation import Limit
from srvp_fd_jax.report.page import Findings
from srvp_fd_jax.report.plots import contact_sheet, shown_frames
from srvp_fd_jax.videos.sources import find_videos

PROTOCOLS = [f"srvp:digits:{name}" for name in ("frame", "dynamics")]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Clips, and others whose frames are noisy from the fifth on; one file is damaged."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    clips = moving_digits(rng, 41, 6)
    clips[21:, 4:] = corruptions.add_noise(clips[21:, 4:], rng, 0.3)
    for i, clip in enumerate(clips):
        side = folder / ("real" if i < 21 else "fake & <b>")
        side.mkdir(exist_ok=True)
        np.save(side / f"{i}.npy", clip)
    (side / "damaged.npy").write_text("not an array")
    return str(folder / "real"), str(folder / "fake & <b>")


@pytest.fixture(scope="module")
def collected(sides) -> list[Collected]:
    calculators = load_calculators(map(find_protocol, PROTOCOLS))
    return collect(find_videos(sides[0]), calculators, "real", shown=3)


def test_collects_the_features_of_the_statistics(sides, collected):
    calculators = load_calculators(map(find_protocol, PROTOCOLS))
    results = evaluate(find_videos(sides[0]), calculators, "real")
    assert [one.features["features"].shape for one in collected] == [(21, 6, 128), (21, 1, 20)]
    for one, result in zip(collected, results, strict=True):
        statistics = one.result.statistics
        np.testing.assert_array_equal(statistics.factor, result.statistics.factor)
        samples = {name: np.concatenate(f) for name, f in one.features.items()}
        whole = FeatureStatistics.from_features(**samples)
        assert whole.count == statistics.count
        np.testing.assert_allclose(whole.mean, statistics.mean, atol=1e-6)
        np.testing.assert_allclose(whole.covariance(), statistics.covariance(), atol=1e-5)
    stored = np.load(Path(sides[0]) / "2.npy")
    assert len(collected[0].shown) == 3
    np.testing.assert_allclose(collected[0].shown[2], stored / 255, atol=1e-6)


def test_contact_sheet_shows_a_clip_a_row(collected):
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet(collected[0].shown))))
    assert sheet.shape == (3 * 66, 6 * 66)
    tile = sheet[66 + 2 : 2 * 66, 5 * 66 + 2 :]
    np.testing.assert_array_equal(tile, np.round(255 * collected[0].shown[1][5, ..., 0]))
    assert shown_frames(31) == list(range(0, 31, 2))


class _Attributes(HTMLParser):
    """Gathers what a page refers to and its headings."""

    def __init__(self, text: str):
        super().__init__()
        self.references: list[str] = []
        self.headings: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.references += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h2", "h3"):
            self.headings.append(data)


def test_page_is_whole_and_needs_no_other_file(sides, tmp_path, capsys):
    output = tmp_path / "new" / "report.html"
    command = [*sides, "--protocol", ",".join(PROTOCOLS)]
    assert cli.main(["report", *command, "-o", str(output), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert cli.main(["compute", *command, "--no-cache", "--json"]) == 0
    computed = json.loads(capsys.readouterr().out)["results"]
    assert [r["distance"] for r in results] == [r["distance"] for r in computed]
    assert [r["fake"] for r in results] == [r["fake"] for r in computed]
    for result in results:
        assert result["interval"][0] <= result["distance"] <= result["interval"][1]
        assert len(result["curve"]["distances"]) == len(result["curve"]["sizes"]) == 10
    assert min(results[0]["over_time"][4:]) > 3 * max(results[0]["over_time"][:4])
    assert results[1]["over_time"] is None

    text = output.read_text()
    page = _Attributes(text)
    assert page.open == []
    assert not re.search(r"(src|href)\s*=\s*.?https?:|url\(|@import|<script|<link", text)
    # Two curves, one plot over time and, since the protocols share clips, one sheet a side.
    kinds = [reference.partition(";")[0] for reference in page.references]
    assert kinds == ["data:image/svg+xml"] * 3 + ["data:image/png"] * 2
    of_protocol = ["Settings", "Videos"]
    assert page.headings == [
        *(heading for name in PROTOCOLS for heading in [name, *of_protocol]),
        *("Clips as the network saw them", "Real", "Generated", "How to read this"),
    ]
    for name, result in zip(PROTOCOLS, results, strict=True):
        low, high = result["interval"]
        (shown, *ends) = re.search(
            r"<strong>([0-9.]+)</strong> \(95 % interval ([0-9.]+) to ([0-9.]+)\)(?:; FD∞|</p>)",
            text[text.index(f"<h2>{name}</h2>") :],
        ).groups()
        margin = high - result["distance"]
        for number, exact in zip([shown, *ends], [result["distance"], low, high], strict=True):
            decimals = len(number.partition(".")[2])
            assert abs(float(number) - exact) <= margin / 10
            assert 10 ** (1 - decimals) <= margin
    # 21 real and 20 generated clips of 6 frames in 128 dimensions, and without frames in 20.
    assert [result["fd_infinity"] is None for result in results] == [True, True]
    assert "FD∞\u00a0" not in text
    assert "fake &amp; &lt;b&gt;/damaged.npy: " in text
    assert "<b>" not in text
    assert dict(computed[0]["source"])["weights_sha256"] in text
    assert "21 real and 20 generated samples" in text
    assert "20 samples for" in text


def test_folder_gets_images(sides, tmp_path, capsys):
    output = f"{tmp_path}/r/"
    assert cli.main(["report", *sides, "--dataset", "digits", "-o", output]) == 0
    assert capsys.readouterr().out.strip() == output
    names = [f"srvp_digits_frame_{kind}.png" for kind in ("curve", "time")]
    names += [f"srvp_digits_frame_clips_{side}.png" for side in ("real", "generated")]
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == sorted(names)
    assert all((tmp_path / "r" / name).read_bytes()[:4] == b"\x89PNG" for name in names)


def error_of(capsys, *command: str) -> str:
    assert cli.main(["report", *command, "--dataset", "digits"]) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("name", ["r.pdf", "r", "r.htm", "file", "file/"])
def test_outputs_of_other_kinds_are_refused(sides, tmp_path, capsys, name):
    (tmp_path / "file").touch()
    message = f"error: output: got {tmp_path}/{name}, expected a name *.html, an existing folder"
    assert message in error_of(capsys, *sides, "-o", f"{tmp_path}/{name}")


@pytest.mark.parametrize(
    ("name", "message"), [("a.html", "a.html: is a folder"), ("b/r.html", "b")]
)
def test_outputs_that_cannot_be_written_are_told_before_the_work(
    sides, tmp_path, capsys, name, message
):
    (tmp_path / "a.html").mkdir()
    (tmp_path / "b").touch()
    error = error_of(capsys, *sides, "-o", str(tmp_path / name))
    assert message in error
    assert "real: " not in error


def test_errors(sides, tmp_path, capsys, monkeypatch):
    page = str(tmp_path / "r.html")
    error = error_of(capsys, sides[0], "kept.safetensors", "-o", page)
    assert "error: fake: got the statistics kept.safetensors, a report needs the videos" in error
    np.save(tmp_path / "few.npy", moving_digits(np.random.default_rng(0), 3, 6))
    error = error_of(capsys, sides[0], str(tmp_path / "few.npy"), "-o", page)
    assert "error: fake: got 3 clips, expected at least 4 to draw from" in error
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert 'a report needs the extra "report"' in error_of(capsys, *sides, "-o", page)
    assert not Path(page).exists()


@pytest.mark.parametrize("as_json", [False, True])
def test_a_report_that_cannot_be_written_still_tells_its_distance(
    sides, tmp_path, capsys, monkeypatch, as_json
):
    def full(*_):
        raise OSError(28, "No space left on device", "r.html")

    monkeypatch.setattr("srvp_fd_jax.report.page.write_atomically", full)
    command = ["report", *sides, "--dataset", "digits", "-o", str(tmp_path / "r.html")]
    assert cli.main([*command, *["--json"] * as_json]) == 1
    output = capsys.readouterr()
    assert "error: r.html: No space left on device" in output.err
    if as_json:
        told = json.loads(output.out)
        assert told["output"] is None
        distance = told["results"][0]["distance"]
    else:
        distance = float(output.out)
    assert cli.main(["compute", *sides, "--dataset", "digits"]) == 0
    assert distance == pytest.approx(float(capsys.readouterr().out), rel=1e-5)


def findings(n: int, infinity: float, distance: float, margin: float, dim: int = 4) -> Findings:
    """Findings that are made up, with n samples per side."""
    features = np.random.default_rng(0).normal(size=(n, dim)).astype(np.float32)
    side = SimpleNamespace(
        result=SimpleNamespace(statistics=FeatureStatistics.from_features(features))
    )
    return Findings.__new__(
        Findings,
        real=side,
        fake=side,
        distance=distance,
        interval=(max(0.0, distance - margin), distance + margin),
        curve=None,
        limit=Limit(infinity, 1.0, 2),
        over_time=None,
    )


@pytest.mark.parametrize(
    ("n", "infinity", "expected"), [(5, 1.5, 1.5), (4, 1.5, None), (5, -0.1, None), (5, 0.0, 0.0)]
)
@pytest.mark.usefixtures("without_type_checks")
def test_a_limit_that_is_not_to_be_trusted_is_not_given(n, infinity, expected):
    assert findings(n, infinity, 2.0, 0.5).infinity == expected


@pytest.mark.parametrize(
    ("distance", "margin", "expected"),
    [
        (21.96432, 1.84, "22.0"),
        (21.96432, 0.0184, "21.964"),
        (0.0123456, 0.00031, "0.01235"),
        (12345.67, 678.0, "12350"),
        (12345.67, 12.0, "12346"),
        (21.96432, 0.0, "21.96"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_numbers_have_no_more_digits_than_the_interval_bears(distance, margin, expected):
    one = findings(5, 1.0, distance, margin)
    assert one.rounded(distance) == expected


def test_a_report_is_the_same_bytes_for_the_same_videos(sides, tmp_path):
    for name in ("one", "two"):
        output = str(tmp_path / f"{name}.html")
        assert cli.main(["report", *sides, "--dataset", "digits", "-o", output]) == 0
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
