"""What rounding may cost: a few times what it costs a peer, both against float64."""

import jax
import numpy as np


def assert_as_exact(ours: object, peer: object, exact: object, times: float = 4) -> None:
    """Asserts that ours errs at most so many times as much as the peer, plus that many ulps.

    Each array by its largest error, since a sum of rounded products errs by parts of its terms,
    however small it is itself. An ulp is one of the largest value, in the type of ours.

    Args:
        ours: Arrays, in any pytree.
        peer: The same of another implementation, as a rule PyTorch in float32.
        exact: The same in float64.
        times: How many times the peer's error is allowed.
    """
    found = jax.tree.leaves_with_path(ours)
    for (path, mine), other, truth in zip(
        found, jax.tree.leaves(peer), jax.tree.leaves(exact), strict=True
    ):
        mine, other, truth = np.asarray(mine), np.asarray(other), np.asarray(truth)
        name = jax.tree_util.keystr(path) or "the array"
        assert truth.dtype == np.float64, name
        assert mine.shape == other.shape == truth.shape, name
        largest = np.abs(truth).max()
        assert largest > 0, f"{name} shows nothing: all of it is zero"
        error, of_peer = (np.abs(array - truth).max() for array in (mine, other))
        ulp = np.finfo(mine.dtype).eps * largest
        assert error <= times * (of_peer + ulp), (
            f"{name} errs by {error / ulp:.3g} ulps of its largest value, the peer by"
            f" {of_peer / ulp:.3g}"
        )
