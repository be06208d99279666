from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import moving, write_video
from PIL import Image

from srvp_fd_jax.videos.properties import differences
from srvp_fd_jax.videos.sources import as_videos

ONCE = {"real": 1, "fake": 1}


def found(real: object, fake: object, steps: dict = ONCE) -> str:
    """What differs, without the beginning of the sentence."""
    videos = {side: as_videos(of, side) for side, of in (("real", real), ("fake", fake))}
    text = differences(videos, steps)
    return "" if text is None else text.partition(": ")[2]


def folder(root: Path, count: int, suffix: str = ".mkv", codec: str = "libx264", **more) -> Path:
    """Videos at `rate` frames/s, with other properties of the stream."""
    root.mkdir()
    size = more.pop("size", (48, 64))
    rate, pixels = more.pop("rate", 25), more.pop("pixels", "yuv420p")
    for i in range(count):
        with av.open(str(root / f"{i}{suffix}"), "w") as output:
            stream = output.add_stream(codec, rate=rate, height=size[0], width=size[1])
            stream.pix_fmt, stream.options = pixels, {"threads": "1", **more.pop("options", {})}
            for name, value in more.items():
                setattr(stream.codec_context, name, value)
            for frame in moving(3, *size):
                output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            output.mux(stream.encode())
    return root


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("plain") / "a", 2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ""),
        ({"suffix": ".mp4"}, ""),
        ({"rate": 8}, "real 25 frames/s, generated 8 frames/s"),
        ({"size": (32, 96)}, "real 48×64, generated 32×96"),
        ({"codec": "mpeg4"}, "real h264, generated mpeg4"),
        (
            {"sample_aspect_ratio": Fraction(4, 3)},
            "real pixel aspect 1:1, generated pixel aspect 4:3",
        ),
        ({"color_trc": 16}, "real SDR, generated PQ"),
        (
            {"options": {"x264-params": "interlaced=1"}},
            "real progressive, generated interlaced",
        ),
        (
            {"rate": 50, "codec": "mpeg4"},
            "real 25 frames/s, generated 50 frames/s; real h264, generated mpeg4",
        ),
    ],
)
def test_what_differs_is_named(tmp_path: Path, plain: Path, options: dict, expected: str):
    assert found(plain, folder(tmp_path / "b", 2, **options)) == expected


def test_frame_rates_are_those_of_the_frames_that_are_taken(tmp_path: Path, plain: Path):
    slow = folder(tmp_path / "b", 1, rate=5)
    assert found(plain, slow, {"real": 5, "fake": 1}) == ""
    assert found(plain, slow, {"real": 5, "fake": 5}) == "real 25 frames/s, generated 5 frames/s"
    assert (
        found(folder(tmp_path / "c", 1, rate=24), plain)
        == "real 24 frames/s, generated 25 frames/s"
    )


def images(root: Path, suffix: str, mode: str = "RGB", alpha: int = 255, **options) -> Path:
    (root / "v").mkdir(parents=True)
    for t, frame in enumerate(moving(2)):
        image = Image.fromarray(frame).convert(mode)
        if mode == "RGBA":
            image.putalpha(alpha)
        image.save(root / "v" / f"{t}{suffix}", **options)
    return root


def test_images_and_arrays(tmp_path: Path, plain: Path):
    png = images(tmp_path / "png", ".png")
    assert found(png, images(tmp_path / "opaque", ".png", "RGBA")) == ""
    assert found(png, images(tmp_path / "clear", ".png", "RGBA", 9)) == (
        "real opaque, generated partly transparent"
    )
    assert found(png, images(tmp_path / "jpg", ".jpg")) == "real png, generated jpeg"
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = images(tmp_path / "turned", ".png", exif=exif)
    assert found(turned, png) == "real 64×48, generated 48×64"
    assert found(png, plain) == "real png, generated h264"
    clips = np.zeros((2, 3, 32, 32, 3), np.uint8)
    for array in (clips, clips.transpose(0, 1, 4, 2, 3)):
        assert found(plain, array) == "real 48×64, generated 32×32"
        np.save(tmp_path / "a.npy", array)
        assert found(plain, str(tmp_path / "a.npy")) == "real 48×64, generated 32×32"
    assert found(clips, np.zeros((2, 3, 48, 64, 3), np.uint8)) == "real 32×32, generated 48×64"


def test_sets_of_various_sizes_are_alike(tmp_path: Path, plain: Path):
    for root in ("a", "b"):
        for i in range(5):
            write_video(tmp_path / root / f"{i}.mkv", moving(2, 32 + 16 * i, 64))
    assert found(tmp_path / "a", tmp_path / "b") == ""
    assert found(tmp_path / "a", plain) == "real various sizes, generated 48×64"


def test_what_cannot_be_read_has_no_properties(tmp_path: Path, plain: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.mp4").write_bytes(b"no video")
    (tmp_path / "a" / "2.npy").write_bytes(b"no array")
    assert found(plain, tmp_path / "a") == ""
