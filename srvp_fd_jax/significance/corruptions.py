"""Graded corruptions of real clips, which are the marks of the ruler.

A corruption takes clips [T, H, W, C] of one length, in uint8 from 0 to 255 or in floats from 0 to
1, and returns as many of the same shapes and types. It leaves the given arrays alone; clips that it
does not change are the given arrays themselves. With a generator of the same seed, what a strength
changes is part of what a larger one changes.
"""

import dataclasses
import io
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped

from srvp_fd_jax.files.inputs import missing_extra

Clip = Shaped[np.ndarray, "t _ _ _"]  # frame sizes may differ
Clips = Sequence[Clip]

MODES = 4
"""Number of clips whose copies are the clips of `repeat_few`."""


class NotApplicableError(ValueError):
    """Says why a corruption cannot be applied to clips."""


@dataclasses.dataclass(frozen=True)
class Corruption:
    """A kind of corruption.

    Attributes:
        strengths: Four rising strengths, whose unit is the function's. Strength 0 changes nothing.
        function: Function of the clips, the strength and a source of randomness. It raises a
            `NotApplicableError` if the clips do not allow the corruption.
        phrase: Function from a strength to words such as "a blur of σ = 2.1 pixels".
        takes_fast: Whether the function also takes `fast`: the same videos' clips at doubled speed.
    """

    strengths: tuple[float, float, float, float]
    function: Callable[..., list[Clip]]
    phrase: Callable[[float], str]
    takes_fast: bool = False

    def __call__(
        self,
        clips: Clips,
        strength: float,
        rng: np.random.Generator,
        fast: Sequence[Clip | None] | None = None,
    ) -> list[Clip]:
        """Corrupts clips.

        Args:
            clips: Clips of one length.
            strength: Strength from 0 up, between or beyond `strengths` as well.
            rng: Source of randomness.
            fast: Clips of the same videos at doubled speed, None for videos that are too short; or
                None if there are no such clips.

        Raises:
            NotApplicableError: If the clips do not allow the corruption.
        """
        if strength == 0:
            return list(clips)
        extra = {"fast": fast or [None] * len(clips)} if self.takes_fast else {}
        return self.function(clips, strength, rng, **extra)


def add_noise(clips: Clips, strength: float, rng: np.random.Generator) -> list[Clip]:
    """Adds Gaussian noise of standard deviation `strength` on the scale from 0 to 255."""
    return [
        _changed(clip, lambda x: x + strength * rng.standard_normal(x.shape, np.float32))
        for clip in clips
    ]


def blur(clips: Clips, strength: float, rng: np.random.Generator) -> list[Clip]:
    """Blurs frames by a Gaussian of standard deviation `strength` in pixels, repeating edges."""

    def blurred(x: Float[np.ndarray, "t h w c"]) -> Float[np.ndarray, "t h w c"]:
        for axis in (1, 2):
            weights = _blur_weights(x.shape[axis], strength)
            x = np.moveaxis(np.tensordot(weights, x, (1, axis)), 0, axis)
        return x

    return [_changed(clip, blurred) for clip in clips]


def compress(clips: Clips, strength: float, rng: np.random.Generator) -> list[Clip]:
    """Compresses each frame by JPEG at the quality 100 − `strength`."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise NotApplicableError(missing_extra(error, "JPEG", "video")) from error

    def compressed(frame: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w c"]:
        pixels = frame.round().clip(0, 255).astype(np.uint8)
        stored = io.BytesIO()
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        image.save(stored, "JPEG", quality=round(100 - strength))
        with Image.open(stored) as read:
            return np.asarray(read, np.float32).reshape(frame.shape)

    return [
        _changed(clip, lambda x: np.stack([compressed(frame) for frame in x])) for clip in clips
    ]


def darken(clips: Clips, strength: float, rng: np.random.Generator) -> list[Clip]:
    """Lowers the brightness of all pixels by the share `strength`, which never saturates them."""
    return [_changed(clip, lambda x: x * (1 - strength)) for clip in clips]


def drop_frames(clips: Clips, strength: float, rng: np.random.Generator) -> list[Clip]:
    """Replaces the share `strength` of the frames by the frame before; the first one is kept."""
    frames = _frames(clips)
    counts = _counts(len(clips), frames, strength, rng)
    ranks = _ranks(len(clips), frames - 1, rng)
    dropped = np.pad(ranks < counts[:, None], [(0, 0), (1, 0)])
    places = np.where(dropped, 0, np.arange(frames))
    return _reordered(clips, np.maximum.accumulate(places, axis=1))


def freeze(clips: Clips, strength: float, rng: np.random.Generator) -> list[Clip]:
    """Repeats one frame through the last share `strength` of each clip."""
    frames = _frames(clips)
    kept = frames - _counts(len(clips), frames, strength, rng)
    return _reordered(clips, np.minimum(np.arange(frames), np.maximum(kept, 1)[:, None] - 1))


def shuffle(clips: Clips, strength: float, rng: np.random.Generator) -> list[Clip]:
    """Exchanges the share `strength` of each clip's frames among each other, at random places.

    They change places in one random cycle, so that each of them moves. A single frame stays.
    """
    frames = _frames(clips)
    counts = _counts(len(clips), frames, strength, rng)
    orders = np.tile(np.arange(frames), (len(clips), 1))
    for order, count, random in zip(orders, counts, _ranks(len(clips), frames, rng), strict=True):
        chosen = random[:count]
        order[chosen] = np.roll(chosen, 1)
    return _reordered(clips, orders)


def reverse(clips: Clips, strength: float, rng: np.random.Generator) -> list[Clip]:
    """Plays the share `strength` of the clips backwards."""
    _frames(clips)
    return _replaced(clips, [clip[::-1] for clip in clips], strength, rng)


def double_speed(
    clips: Clips, strength: float, rng: np.random.Generator, fast: Sequence[Clip | None]
) -> list[Clip]:
    """Takes the share `strength` of the clips from `fast`, their videos at doubled speed."""
    _frames(clips)
    long = [clip for clip in fast if clip is not None]
    if len(long) < len(clips):
        raise NotApplicableError(
            f"{len(clips) - len(long)} of {len(clips)} videos are too short for clips at doubled "
            "speed"
        )
    return _replaced(clips, long, strength, rng)


def swap_content(clips: Clips, strength: float, rng: np.random.Generator) -> list[Clip]:
    """Takes the second half of the share `strength` of the clips from other clips."""
    half = _frames(clips) // 2
    if len({(clip.shape, clip.dtype) for clip in clips}) > 1 or len(clips) < 2:
        raise NotApplicableError("content is swapped between several clips of one size and type")
    order = rng.permutation(len(clips))
    others = dict(zip(order, np.roll(order, 1), strict=True))
    swapped = [
        np.concatenate([clip[:half], clips[others[i]][half:]]) for i, clip in enumerate(clips)
    ]
    return _replaced(clips, swapped, strength, rng)


def repeat_few(clips: Clips, strength: float, rng: np.random.Generator) -> list[Clip]:
    """Replaces the share `strength` of the clips by copies of `MODES` of them."""
    order = rng.permutation(len(clips))
    modes, made = order[-MODES:], list(clips)
    for place, i in enumerate(order[: round(strength * len(clips))]):
        made[i] = clips[modes[place % len(modes)]]
    return made


def _changed(
    clip: Clip,
    change: Callable[[Float[np.ndarray, "t h w c"]], Float[np.ndarray, "t h w c"]],
) -> Clip:
    """Applies a change on the scale from 0 to 255; values of the same type stay in their range."""
    if clip.dtype == np.uint8:
        return change(clip.astype(np.float32)).round().clip(0, 255).astype(np.uint8)
    changed = change(clip.astype(np.float32) * 255) / 255
    return changed.clip(min(0, clip.min()), max(1, clip.max())).astype(clip.dtype)


def _blur_weights(size: int, sigma: float) -> Float[np.ndarray, "size size"]:
    """The blur along one axis as a matrix, whose rows are Gaussians up to four deviations."""
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    places = np.arange(size)[:, None]
    matrix = np.zeros((size, size))
    np.add.at(matrix, (places, (places + offsets).clip(0, size - 1)), weights / weights.sum())
    return matrix.astype(np.float32)


def _frames(clips: Clips) -> int:
    """Number of frames per clip, of which a corruption in time needs two."""
    frames = len(clips[0])
    if frames < 2:
        raise NotApplicableError("clips of one frame have no order in time")
    return frames


def _counts(
    clips: int, frames: int, share: float, rng: np.random.Generator
) -> Int[np.ndarray, " clips"]:
    """Numbers of frames per clip, rounded up and down so that `share` holds for all clips."""
    thresholds = (rng.permutation(clips) + 0.5) / clips
    return np.floor(share * frames + thresholds).astype(int)


def _ranks(clips: int, frames: int, rng: np.random.Generator) -> Int[np.ndarray, "clips frames"]:
    """A random order of the frames of each clip."""
    return rng.permuted(np.tile(np.arange(frames), (clips, 1)), axis=1)


def _reordered(clips: Clips, orders: Int[np.ndarray, "clips frames"]) -> list[Clip]:
    """Clips whose frames are those of the given clips at these places."""
    unchanged = np.arange(orders.shape[1])
    return [
        clip if (order == unchanged).all() else clip[order]
        for clip, order in zip(clips, orders, strict=True)
    ]


def _replaced(clips: Clips, others: Clips, share: float, rng: np.random.Generator) -> list[Clip]:
    """Clips of which a random share is replaced by the others at the same places."""
    chosen = set(rng.permutation(len(clips))[: round(share * len(clips))].tolist())
    return [others[i] if i in chosen else clip for i, clip in enumerate(clips)]


def _two(x: float) -> str:
    """A number of two significant digits without an exponent."""
    return f"{float(f'{x:.2g}'):g}"


def _percent(share: float) -> str:
    return f"{_two(100 * share)} %"


_SHARES = (0.25, 0.5, 0.75, 1.0)

CORRUPTIONS: dict[str, Corruption] = {
    "noise": Corruption(
        (5.0, 10.0, 20.0, 40.0), add_noise, lambda s: f"noise of σ = {_two(s)} of 255"
    ),
    "blur": Corruption((1.0, 2.0, 4.0, 8.0), blur, lambda s: f"a blur of σ = {_two(s)} pixels"),
    "JPEG": Corruption(
        (50.0, 75.0, 90.0, 95.0), compress, lambda s: f"JPEG at quality {100 - s:.0f}"
    ),
    "brightness": Corruption(
        (0.1, 0.2, 0.4, 0.8), darken, lambda s: f"a brightness lowered by {_percent(s)}"
    ),
    "dropped frames": Corruption(
        (0.1, 0.25, 0.5, 0.75), drop_frames, lambda s: f"{_percent(s)} of frames dropped"
    ),
    "frozen end": Corruption(
        _SHARES, freeze, lambda s: f"the last {_percent(s)} of each clip frozen"
    ),
    "shuffled frames": Corruption(
        _SHARES, shuffle, lambda s: f"{_percent(s)} of the frames of each clip shuffled"
    ),
    "reversed clips": Corruption(
        _SHARES, reverse, lambda s: f"{_percent(s)} of clips played backwards"
    ),
    "doubled speed": Corruption(
        _SHARES, double_speed, lambda s: f"{_percent(s)} of clips at doubled speed", takes_fast=True
    ),
    "swapped content": Corruption(
        _SHARES, swap_content, lambda s: f"{_percent(s)} of clips that turn into other clips"
    ),
    "fewer modes": Corruption(
        _SHARES, repeat_few, lambda s: f"{_percent(s)} of clips replaced by copies of {MODES} clips"
    ),
}
"""The corruptions by name. To add a mark to the ruler, add an entry."""
