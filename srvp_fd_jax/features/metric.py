"""Wraps a calculator as a metric of Flax, for training loops that collect metrics."""

import dataclasses
import re
import weakref
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from srvp_fd_jax.devices import values
from srvp_fd_jax.features.calculator import Calculator

# `nnx.MultiMetric` passes all arguments to all metrics, so that others are ignored.
_MASK_LIKE = re.compile("mask|weight|valid|where|padding", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, eq=False)
class _Constants:
    """What a metric compares generated clips with; equal to itself only.

    Flax takes it for static, since it is no pytree. The arrays are constants of jitted functions:
    these are not given them, so they cannot be donated, and no state of Flax contains them.

    Attributes:
        calculator: The calculator.
        real: Copies of the statistics of the real clips, which others cannot donate.
        given: The statistics that were copied.
    """

    calculator: Calculator
    real: Mapping[str, Any]
    given: Mapping[str, Any]

    @classmethod
    def of(cls, calculator: Calculator, real: Mapping[str, Any]) -> "_Constants":
        """The same constants for the same objects, so that nothing is compiled for each metric."""
        leaves, structure = jax.tree.flatten(dict(real))
        key = id(calculator), structure, *map(id, leaves)
        found = _CONSTANTS.get(key)
        if found is None:
            copies = jax.tree.unflatten(structure, map(_copied, leaves))
            found = _CONSTANTS[key] = cls(calculator, copies, dict(real))
        return found

    def __deepcopy__(self, memo: object) -> "_Constants":
        return self


# Constants hold the objects whose ids find them.
_CONSTANTS: weakref.WeakValueDictionary[Any, _Constants] = weakref.WeakValueDictionary()


class DistanceMetric(nnx.Metric):
    """Distances of generated clips, which a loop adds in batches, to real clips.

    Can be one of an `nnx.MultiMetric`. The state of the metric is one `nnx.metrics.MetricState`
    with the statistics of the generated clips. The metric works under `nnx.jit`, with `nnx.split`
    and `nnx.update` under `jax.jit`, in `scan`, with donated arguments and in checkpoints, none of
    which contain the weights of the calculator or the real statistics. These are constants of
    compiled functions, so keep one calculator and its statistics for all metrics of a process.

    Example:
        >>> import numpy as np
        >>> import srvp_fd_jax
        >>> from srvp_fd_jax.demo.moving_digits import moving_digits
        >>> rng = np.random.default_rng(0)
        >>> calculator = srvp_fd_jax.Calculator("digits").only("dynamics")
        >>> real = calculator.statistics([moving_digits(rng, n=40, length=5)])
        >>> metric = srvp_fd_jax.DistanceMetric(calculator, real)
        >>> for _ in range(2):
        ...     metric.update(clips=moving_digits(rng, n=20, length=5))
        >>> {output: float(distance) > 0 for output, distance in metric.compute().items()}
        {'dynamics': True}
    """

    def __init__(self, calculator: Calculator, real: Mapping[str, Any], argname: str = "clips"):
        """Starts with no generated clips.

        Args:
            calculator: Calculator that encodes and compares clips.
            real: Statistics of the real clips under the names of outputs, made by the calculator.
            argname: Name of the argument of `update` that holds the generated clips.
        """
        outputs = [protocol.output for protocol in calculator.protocols]
        if not isinstance(real, Mapping) or set(real) != set(outputs):
            got = ", ".join(real) if isinstance(real, Mapping) else f"a {type(real).__name__}"
            expected = ", ".join(outputs)
            raise ValueError(f"real: got {got}, expected the statistics of {expected}")
        self._constants = _Constants.of(calculator, real)
        self.argname = argname
        self.generated = nnx.metrics.MetricState(calculator.empty())

    def reset(self) -> None:
        """Removes the generated clips."""
        self.generated.set_value(self._constants.calculator.empty())

    def update(self, *, mask: ArrayLike | None = None, **kwargs: Any) -> None:
        """Adds a batch of generated clips.

        Args:
            mask: False for clips to ignore, such as padding, bool [N]. None counts all clips.
            **kwargs: The batch under the name `argname`; other arguments are ignored.

        Raises:
            ValueError: If the batch is missing or not valid for the calculator, or if another
                argument seems to be a mask.
        """
        if self.argname not in kwargs:
            raise ValueError(f"{self.argname}: got {sorted(kwargs)}, but not {self.argname!r}")
        for name in sorted(kwargs.keys() - {self.argname}):
            if _MASK_LIKE.search(name) and np.ndim(kwargs[name]):
                raise ValueError(f"{name}: the argument that selects clips is `mask`, bool [N]")
        clips, generated = kwargs[self.argname], self.generated.get_value()
        self.generated.set_value(self._constants.calculator.update(generated, clips, mask=mask))

    def compute(self) -> dict[str, Float[Array, ""]]:
        """Computes the distances under the names of the outputs.

        Raises:
            ValueError: If a distance needs more clips; under `jit` the distance is nan instead.
        """
        generated = self.generated.get_value()
        distance, real = self._constants.calculator.distance, self._constants.real
        return {output: distance(of_real, generated[output]) for output, of_real in real.items()}


def _copied(x: Array) -> Array:
    """A copy that others cannot donate, in this process alone; traced arrays as they are."""
    known = values(x)
    return x if known is None else jnp.array(known)
