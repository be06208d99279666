"""Train the bundled model "digits" anew, on moving digits that are made while it trains.

    pip install -e ".[train]"
    python examples/train_digits.py digits.safetensors --minutes 88

It shows how to train on videos that no file holds: any object with a length and items will do.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.networks import weights
from srvp_fd_jax.training.recipes import RECIPES
from srvp_fd_jax.training.trainer import train

RECIPE = RECIPES["digits"]


class MovingDigits:
    """Videos by their numbers, each made from its own seed whenever it is asked for."""

    def __len__(self) -> int:
        """The number of videos, more than a run of hours uses."""
        return 300_000

    def __getitem__(self, i: int) -> np.ndarray:
        """Video number i, as long as a clip."""
        return moving_digits(np.random.default_rng([0, i]), 1, RECIPE.frames)[0]


def main() -> None:
    """Trains, and writes the weights under the name of the bundled model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="file to write, *.safetensors")
    parser.add_argument("--minutes", type=float, default=88)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    made = train(
        MovingDigits(),
        args.output,
        RECIPE,
        minutes=args.minutes,
        resume=args.resume,
        on_progress=lambda moment: print(f"\r{moment.share:.1%}, step {moment.step}", end=""),
    )
    trained = dataclasses.replace(weights.load(made.output), name="digits")
    weights.save(trained, made.output)
    print(f"\n{made.output}: {made.step} steps, PSNR {made.psnr:.2f} dB")


if __name__ == "__main__":
    main()
