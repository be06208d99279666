"""The time of a run, and when its validations are due."""

import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from srvp_fd_jax.training.fitting import VALIDATION_SHARE

_MAX_VALIDATIONS = 10  # in a run whose time is limited


class Clock:
    """The time of a run: its share that is over, what validations took, and what is left.

    Attributes:
        begun: When the run would have begun if it had not been interrupted.
        validation: Seconds that the next validation may take.
    """

    def __init__(self, steps: int, minutes: float | None, begun: float):
        """Starts the clock of a run with limits, which would have begun then without a break."""
        self.steps, self.minutes, self.begun = steps, minutes, begun
        self.validation = 0.0
        self._validations = self._share = 0.0
        self._here = time.monotonic()
        self._first: tuple[int, float] | None = None

    @property
    def seconds(self) -> float:
        """Time that the run has taken, with the time before it was resumed."""
        return time.monotonic() - self.begun

    def look(self, step: int) -> tuple[float, bool]:
        """Share of the run that is over at the end of a step, and whether a validation is due.

        Both are the same in all processes. Validations are due by the clock only where the time is
        limited: up to ten, which together take no more than a tenth of it.
        """
        share, is_due = step / self.steps, False
        if self.minutes is not None:
            over, whole = self.seconds, 60 * self.minutes - self.validation  # with one at the end
            share = max(share, self._share, over / whole if over < whole else 1.0)
            spent = self._validations + self.validation
            is_due = spent <= VALIDATION_SHARE * (time.monotonic() - self._here)
            is_due &= int(_MAX_VALIDATIONS * share) > int(_MAX_VALIDATIONS * self._share)
            if jax.process_count() > 1:
                both = multihost_utils.broadcast_one_to_all(np.array([share, is_due], np.float32))
                share, is_due = float(both[0]), bool(both[1])
        self._share = min(1.0, share)
        return self._share, is_due

    def stepped(self, step: int, begun: float) -> None:
        """Notes the end of a step, the first of which takes time to compile."""
        if self._first is None:
            self._first = step, time.monotonic()
            self.validation = time.monotonic() - begun  # of which a validation takes as much

    def validated(self, begun: float) -> None:
        """Notes the end of a validation."""
        self.validation = time.monotonic() - begun
        self._validations += self.validation

    def left(self, step: int) -> float | None:
        """Seconds that are left, in which the steps go on as fast as on average."""
        if self._first is None or step == self._first[0]:
            return None
        before, then = self._first
        left = (self.steps - step) * (time.monotonic() - then) / (step - before)
        if self.minutes is None:
            return left
        return min(left, max(0.0, 60 * self.minutes - self.seconds))
