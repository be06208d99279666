"""Recipes of training as data: those of the published models, and one for your videos.

The values are those of Franceschi et al. (ICML 2020, arXiv 2002.09219, appendix) and of the
authors' code (https://github.com/edouardelasalles/srvp).
"""

import dataclasses
from typing import Any, cast, get_args

from srvp_fd_jax.networks.kernels.convolution import Precision
from srvp_fd_jax.protocols import PROTOCOLS, Protocol
from srvp_fd_jax.training.model import SRVPModelArchitecture

_MAY_BE_ZERO = ("burn_in", "seed", "split_seed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a training run makes of its videos.

    Attributes:
        preset: Name of the recipe in `RECIPES` that this one is or began as. Frames are sampled and
            resized as in the protocols of this name, such as "srvp:own:frame".
        architecture: Architecture of the model.
        frames: Number of frames per clip.
        given: Number of first frames that the model is given when it predicts the others.
        batch_size: Number of clips per step of the optimiser, over all devices and processes.
        accumulate: Number of parts of a batch that are computed one after the other, for machines
            of little memory; their gradients are averaged. Batch normalisation takes the
            statistics of each part on its own.
        precision: Precision of the convolutions; see `load_network`. All else is float32.
        euler_steps: Number of Euler steps from a frame to the next.
        obs_scale: Standard deviation of the pixels around the decoded frames.
        beta_y: Weight of KL(q(y₀) ‖ N(0, 1)).
        beta_z: Weight of KL(q(z_t) ‖ p(z_t | y_{t−1})).
        l2_res: Weight of the residuals' norms.
        res_gain: Gain of the residual network's first, orthogonal weights.
        learning_rate: Learning rate of Adam until it begins to decay.
        burn_in: Number of steps before the learning rate decays.
        decay: Number of steps in which the learning rate then decays linearly to 0.
        validate_every: Number of steps from one validation to the next.
        validation_clips: Largest number of held-out clips, one per held-out video.
        samples: Number of predictions per clip, of which the one closest to the truth counts.
        seed: Seed of the weights, of the order of the videos, of the clips and of all noise.
        split_seed: Seed of the choice of the videos that are held out.
    """

    preset: str
    architecture: SRVPModelArchitecture
    frames: int = 15
    given: int = 5
    batch_size: int = 128
    accumulate: int = 1
    precision: Precision = "float32"
    euler_steps: int = 1
    obs_scale: float = 1.0
    beta_y: float = 1.0
    beta_z: float = 1.0
    l2_res: float = 1.0
    res_gain: float = 1.41
    learning_rate: float = 3e-4
    burn_in: int = 1_000_000
    decay: int = 100_000
    validate_every: int = 20_000
    validation_clips: int = 400
    samples: int = 100
    seed: int = 0
    split_seed: int = 0

    def __post_init__(self) -> None:
        """Raises a `ValueError` if values are not allowed or do not fit each other."""
        for field in dataclasses.fields(self):
            value, smallest = getattr(self, field.name), int(field.name not in _MAY_BE_ZERO)
            if field.type is int and value < smallest:
                raise ValueError(f"{field.name}: got {value}, expected at least {smallest}")
            if field.type is float and not 0 < value < float("inf"):
                raise ValueError(f"{field.name}: got {value}, expected a positive number")
        if self.precision not in get_args(Precision):
            allowed = ", ".join(get_args(Precision))
            raise ValueError(f"precision: got {self.precision!r}, allowed are {allowed}")
        if (channels := self.architecture.channels) not in (1, 3):
            raise ValueError(f"nc: got {channels}, allowed are 1 (grey) and 3 (RGB)")
        nt_inf = self.architecture.nt_inf
        if self.given < nt_inf:
            raise ValueError(f"given: got {self.given}, expected at least the {nt_inf} of nt_inf")
        if self.frames < self.given + nt_inf:
            raise ValueError(
                f"frames: got {self.frames}, expected at least {self.given + nt_inf}: the "
                f"{self.given} that are given, and {nt_inf} (nt_inf) to compare after them"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size: got {self.batch_size}, expected a multiple of the {self.accumulate} "
                "parts of accumulate"
            )

    @property
    def protocol(self) -> Protocol:
        """The protocol whose sampling and resizing the training shares."""
        return PROTOCOLS[f"srvp:{self.preset}:frame"]

    @property
    def steps(self) -> int:
        """Number of steps of the whole schedule."""
        return self.burn_in + self.decay

    def shortened(self, steps: int) -> "Recipe":
        """Returns the recipe with its schedule scaled to another number of steps.

        Ten validations are the fewest.
        """
        decay = max(1, round(steps * self.decay / self.steps))
        every = min(self.validate_every, max(1, steps // 10))
        return dataclasses.replace(self, burn_in=steps - decay, decay=decay, validate_every=every)

    def described(self) -> dict[str, Any]:
        """All values as plain numbers and strings, for files."""
        return dataclasses.asdict(self)

    @classmethod
    def from_described(cls, values: dict[str, Any]) -> "Recipe":
        """Inverts `described`."""
        return cls(**values | {"architecture": _architecture(values["architecture"])})


def change(recipe: Recipe, **changes: Any) -> Recipe:
    """Changes fields of a recipe or of its architecture, by their names.

    Raises:
        ValueError: If there is no such field, or a value is not allowed.
    """
    of_model = {field.name for field in dataclasses.fields(SRVPModelArchitecture)}
    of_run = {field.name for field in dataclasses.fields(Recipe)} - {"architecture", "preset"}
    if unknown := changes.keys() - of_model - of_run:
        allowed = ", ".join(sorted(of_run | of_model))
        raise ValueError(f"recipe: got {', '.join(sorted(unknown))}, allowed are {allowed}")
    config = dataclasses.asdict(recipe.architecture)
    config |= {name: changes[name] for name in changes.keys() & of_model}
    rest = {name: changes[name] for name in changes.keys() & of_run}
    return dataclasses.replace(recipe, architecture=_architecture(config), **rest)


def _architecture(config: dict[str, Any]) -> SRVPModelArchitecture:
    return cast(SRVPModelArchitecture, SRVPModelArchitecture.from_config(config))


_DCGAN = SRVPModelArchitecture(
    archi="dcgan",
    nx=64,
    nc=1,
    nf=64,
    nhx=128,
    ny=20,
    nz=20,
    nt_inf=5,
    nh_inf=256,
    nlayers_inf=3,
    nh_res=512,
    nlayers_res=4,
    skipco=False,
)
_VGG = dataclasses.replace(_DCGAN, archi="vgg", ny=50, nz=50, skipco=True)

RECIPES = {
    recipe.preset: recipe
    for recipe in (
        Recipe(
            preset="own",
            architecture=dataclasses.replace(_DCGAN, nc=3, ny=50, nz=50),
            burn_in=150_000,
            decay=50_000,
            validate_every=5_000,
        ),
        Recipe(preset="mmnist_stochastic", architecture=_DCGAN, beta_z=2.0),
        Recipe(preset="mmnist_deterministic", architecture=_DCGAN, beta_z=2.0, burn_in=800_000),
        Recipe(
            preset="bair",
            architecture=dataclasses.replace(_VGG, nc=3, nt_inf=2),
            frames=12,
            given=2,
            batch_size=192,
            euler_steps=2,
            obs_scale=0.71,
            decay=500_000,
        ),
        Recipe(
            preset="kth",
            architecture=dataclasses.replace(_VGG, nt_inf=3),
            frames=20,
            given=10,
            batch_size=100,
            euler_steps=2,
            obs_scale=0.2,
            res_gain=1.2,
            burn_in=150_000,
            decay=50_000,
            validate_every=5_000,
        ),
        Recipe(
            preset="human",
            architecture=dataclasses.replace(_VGG, nc=3, nt_inf=3),
            frames=16,
            given=8,
            batch_size=100,
            euler_steps=2,
            obs_scale=0.2,
            res_gain=1.2,
            burn_in=325_000,
            decay=25_000,
            validate_every=5_000,
        ),
        Recipe(
            preset="digits",
            architecture=dataclasses.replace(_DCGAN, nf=16),
            frames=12,
            batch_size=16,
            beta_z=2.0,
            learning_rate=6e-4,
            burn_in=30_000,
            decay=10_000,
            validate_every=2_000,
            validation_clips=128,
            samples=10,
        ),
    )
}
"""The recipes by name: "own" for your videos, those of the published models, and that of
the bundled model "digits"."""
