"""Use inside a training loop: distances as a metric that is carried, and as a loss.

    python examples/training_loop.py

A generator of moving digits that starts wrong (its frames are too dark, by a learned brightness
for each pixel) is trained with optax towards real ones.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

import srvp_fd_jax
from srvp_fd_jax import FeatureStatistics, FrechetDistanceCalculator
from srvp_fd_jax.videos.moving_digits import moving_digits


@jax.jit
def evaluation_step(
    calculator: FrechetDistanceCalculator,
    statistics: FeatureStatistics,
    frames: Float[Array, "n 64 64 1"],
) -> FeatureStatistics:
    """Folds one batch of generated frames into statistics that the loop carries."""
    return statistics.update(calculator.extract_features(frames))


def generate(brightness: Float[Array, "64 64 1"], noise: Float[Array, "n 64 64 1"]) -> Array:
    """Frames of the toy generator."""
    return jax.nn.sigmoid(brightness) * noise


@functools.partial(jax.jit, static_argnames="optimizer")
def training_step(calculator, optimizer, brightness, state, noise, real):
    """One step down the distance between generated and real frames."""

    def loss(brightness):
        return calculator(generate(brightness, noise), real)

    value, gradient = jax.value_and_grad(loss)(brightness)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(brightness, updates), state, value


def main(steps: int = 30, batch: int = 192) -> list[float]:
    """Trains, and returns the evaluated distances, one every ten steps."""
    calculator = FrechetDistanceCalculator("digits")
    rng = np.random.default_rng(0)
    real, noise = (jnp.asarray(moving_digits(rng, 4 * batch, 1)[:, 0]) / 255 for _ in range(2))
    reference = calculator.statistics([np.asarray(real)])
    optimizer = optax.adam(0.1)
    brightness = jnp.full((64, 64, 1), -1.0)
    state = optimizer.init(brightness)
    evaluated = []
    for step in range(steps + 1):
        if step % 10 == 0:
            statistics = FeatureStatistics.empty(128)
            for start in range(0, len(noise), batch):
                frames = generate(brightness, noise[start : start + batch])
                statistics = evaluation_step(calculator, statistics, frames)
            distance = srvp_fd_jax.frechet_distance_from_statistics(statistics, reference)
            evaluated.append(float(distance))
            print(f"step {step:3}: distance {evaluated[-1]:.3f}", flush=True)
        rows = rng.choice(len(noise), batch, replace=False)
        brightness, state, _ = training_step(
            calculator, optimizer, brightness, state, noise[rows], real[rows]
        )
    return evaluated


if __name__ == "__main__":
    main()
