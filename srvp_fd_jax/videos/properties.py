"""Compares how two sets of videos were stored, by a few videos of each."""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import UInt8

from srvp_fd_jax.protocols import Side
from srvp_fd_jax.videos.reading import (
    IMAGE_FORMATS,
    Source,
    check_clip,
    is_for_ffmpeg,
    open_source,
    upright,
)
from srvp_fd_jax.videos.sources import ARRAY_SUFFIXES, File, Video, load_array

_PROBED = 8

# ITU-T H.273: SMPTE ST 2084 and ARIB STD-B67.
_HDR = {16: "PQ", 18: "HLG"}
_ALPHA = ("opaque", "partly transparent")


def differences(videos: Mapping[Side, Sequence[Video]], steps: Mapping[Side, int]) -> str | None:
    """Finds what differs between real and generated videos in how they were stored.

    Args:
        videos: Videos of both sets, of which a few evenly spaced ones are opened.
        steps: Steps between the frames that a protocol takes of each set.

    Returns:
        A sentence; None if nothing differs. A property counts where half of the videos of a set
        have it; sets of various sizes, for example, are alike.
    """
    seen = {side: _common(of, steps[side] / min(steps.values())) for side, of in videos.items()}
    differing = [
        f"real {seen['real'][name]}, generated {seen['fake'][name]}"
        for name in seen["real"]
        if seen["fake"].get(name, seen["real"][name]) != seen["real"][name]
    ]
    if not differing:
        return None
    return f"the sets were stored differently, which changes the distance: {'; '.join(differing)}"


def _common(videos: Sequence[Video], step: float) -> dict[str, str]:
    """The properties of at least half of the videos that are looked at."""
    numbers = np.unique(np.linspace(0, len(videos) - 1, _PROBED).astype(int))
    found = [_properties(videos[i], step) for i in numbers]
    common = {}
    for name in dict.fromkeys(name for one in found for name in one):
        values = Counter(one[name] for one in found if name in one)
        value, count = values.most_common(1)[0]
        common[name] = value if 2 * count >= values.total() else f"various {name}s"
    return common


def _properties(video: Video, step: float) -> dict[str, str]:
    """Properties of a video in words, by their names; none if it cannot be read."""
    with contextlib.suppress(Exception):  # reading the video raises the error
        if video.items is not None:
            return _of_shape(getattr(video.items, "shape", ()))
        file = video.files[0]
        if file.suffix in ARRAY_SUFFIXES:
            mapped = file.suffix == ".npy" and file.member is None
            return _of_shape(load_array(file).shape) if mapped else {}
        return _of_video(file, step) if is_for_ffmpeg(file) else _of_image(file)
    return {}


def _of_shape(shape: tuple[int, ...]) -> dict[str, str]:
    if len(shape) < 3:
        return {}
    a, b, c = shape[-3:]
    height, width = (a, b) if c in (1, 3) else (b, c)
    return {"size": f"{height}×{width}"}


def _of_image(file: File) -> dict[str, str]:
    from PIL import Image

    with Image.open(file.open(), formats=IMAGE_FORMATS) as image:
        height, width = image.height, image.width
        check_clip(1, height, width)
        if image.getexif().get(0x0112, 1) > 4:
            height, width = width, height
        clear = image.has_transparency_data and _clear(np.asarray(image.convert("RGBA")))
        return {
            "size": f"{height}×{width}",
            "codec": str(image.format).lower(),
            "alpha": _ALPHA[clear],
        }


def _of_video(file: File, step: float) -> dict[str, str]:
    with open_source(Source.of(file)) as (container, stream):
        frame = next(container.decode(stream))
        context = stream.codec_context
        aspect = Fraction(context.sample_aspect_ratio or 1)  # 0 where it is unknown
        height, width = upright(np.zeros((frame.height, frame.width, 1), bool), frame).shape[:2]
        found = {
            "size": f"{height}×{width}",
            "codec": context.codec.canonical_name,
            "scan": "interlaced" if frame.interlaced_frame else "progressive",
            "pixel aspect": f"pixel aspect {aspect.numerator}:{aspect.denominator}",
            "transfer": _HDR.get(context.color_trc, "SDR"),
        }
        has_alpha = any(component.is_alpha for component in frame.format.components)
        clear = has_alpha and _clear(frame.to_ndarray(format="rgba"))
        found["alpha"] = _ALPHA[clear]
        if stream.average_rate:
            # Rates as close as 29.97 and 30 are alike.
            rate = float(stream.average_rate) / step
            found = {"frame rate": f"{round(rate, 0 if rate > 10 else 1):g} frames/s"} | found
        return found


def _clear(pixels: UInt8[np.ndarray, "h w 4"]) -> bool:
    """Whether any pixel lets something shine through."""
    return bool((pixels[..., 3] < 255).any())
