"""Stochastic moving digits: the Moving MNIST of this package, small enough to ship.

Two handwritten digits move in a 64×64 frame and leave each wall with a new random velocity
(Denton & Fergus 2018, arXiv 1802.07687). The digits are the 1,797 UCI images of 8×8 pixels that
scikit-learn ships (E. Alpaydin and C. Kaynak, CC BY 4.0), enlarged to 28×28. The bundled model
"digits" was trained on such clips.
"""

import functools
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int, UInt8

FRAME_SIZE, DIGIT_SIZE, MAX_SPEED = 64, 28, 4


@functools.cache
def digit_images() -> UInt8[np.ndarray, "1797 28 28"]:
    """The digits, enlarged bicubically, with values from 0 (background) to 255."""
    small = np.load(Path(__file__).parents[1] / "data" / "digit_images.npy")
    shape = (len(small), DIGIT_SIZE, DIGIT_SIZE)
    large = jax.image.resize(small.astype(np.float32) / 16, shape, method="cubic")
    return (255 * np.asarray(large).clip(0, 1)).astype(np.uint8)


def moving_digits(
    rng: np.random.Generator, n: int, length: int, *, digits: int = 2, swapped: int = 0
) -> UInt8[np.ndarray, "n length 64 64 1"]:
    """Makes clips of moving digits.

    Args:
        rng: Source of randomness.
        n: Number of clips.
        length: Number of frames per clip.
        digits: Number of digits per clip.
        swapped: Number of digits per clip that turn into other digits in the middle of the clip.

    Returns:
        Clips with values from 0 (background) to 255; overlapping digits add up and saturate.
    """
    bank = digit_images()
    clips = np.zeros((n, length, FRAME_SIZE, FRAME_SIZE), np.int32)
    for clip in clips:
        for digit in range(digits):
            before, after = bank[rng.integers(len(bank), size=2)]
            for t, (row, column) in enumerate(_trajectory(rng, length)):
                image = after if digit < swapped and t >= length // 2 else before
                clip[t, row : row + DIGIT_SIZE, column : column + DIGIT_SIZE] += image
    return clips.clip(0, 255).astype(np.uint8)[..., None]


def _trajectory(rng: np.random.Generator, length: int) -> Int[np.ndarray, "length 2"]:
    """Positions of a digit, which leaves each wall with random speeds away from and along it."""
    limit = FRAME_SIZE - DIGIT_SIZE
    position = rng.integers(0, limit + 1, size=2)
    velocity = rng.integers(-MAX_SPEED, MAX_SPEED + 1, size=2)
    positions = np.zeros((length, 2), int)
    for t in range(length):
        positions[t] = position
        for axis in range(2):
            if not 0 <= position[axis] + velocity[axis] <= limit:
                away = 1 if position[axis] + velocity[axis] < 0 else -1
                velocity[axis] = away * rng.integers(1, MAX_SPEED + 1)
                velocity[1 - axis] = rng.integers(-MAX_SPEED, MAX_SPEED + 1)
                position[axis] = 0 if away > 0 else limit
            else:
                position[axis] += velocity[axis]
        position = position.clip(0, limit)
    return positions
