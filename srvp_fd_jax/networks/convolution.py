"""Convolution without bias, on the CPU by Winograd's minimal filtering.

XLA's convolutions on the CPU do every multiplication of the definition. A tile of 2×2 outputs of a
convolution with r×r kernels needs only (r + 1)² of its (2r)² (Winograd 1980; Lavin & Gray 2016,
arXiv 1509.09308): tile and kernel are transformed, multiplied point by point (over many tiles and
channels that is one matrix product a point), and the products are transformed to outputs,

    Y = A [(G K Gᵀ) ⊙ (B X Bᵀ)] Aᵀ.

At r = 2 and 3 the transforms are sums of a few terms with coefficients of 1 and ½: results are as
near to exact ones as those of the definition. Larger tiles save more and lose digits.
"""

import functools
import operator
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Precision = Literal["float32", "bfloat16"]
"""What the factors of a convolution's products are rounded to; sums are float32 in any case."""

XLA_PRECISION: dict[Precision, str] = {"float32": "highest", "bfloat16": "default"}
"""What to ask XLA for: "default" is the fastest that a backend has for float32."""

# A, B and G by kernel size r: F(2, 2) and F(2, 3) of Lavin & Gray.
_Matrix = tuple[tuple[float, ...], ...]
_TRANSFORMS: dict[int, tuple[_Matrix, _Matrix, _Matrix]] = {
    2: (
        ((1.0, 1.0, 0.0), (0.0, 1.0, 1.0)),
        ((1.0, -1.0, 0.0), (0.0, 1.0, 0.0), (0.0, -1.0, 1.0)),
        ((1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),
    ),
    3: (
        ((1.0, 1.0, 1.0, 0.0), (0.0, 1.0, -1.0, -1.0)),
        ((1.0, 0.0, -1.0, 0.0), (0.0, 1.0, 1.0, 0.0), (0.0, -1.0, 1.0, 0.0), (0.0, 1.0, 0.0, -1.0)),
        ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0)),
    ),
}

# Multiplications for one tap of the kernel below which the transforms cost more than they save,
# and the longer compilation more than either: 16 frames in a layer of the published DCGAN64.
_LEAST_WORK = 2**27

_Grid = list[list[Array]]


def convolution(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "r r c d"],
    *,
    strides: int,
    padding: int,
    precision: Precision = "float32",
) -> Float[Array, "n h2 w2 d"]:
    """Cross-correlation of images with square kernels.

    Args:
        x: Images.
        kernel: Kernels.
        strides: Step between outputs, in both directions.
        padding: Zeros added on all four sides.
        precision: The same on every backend.

    Returns:
        Images, float32.
    """
    x, kernel = rounded(precision, x, kernel)
    if x.shape[1:3] == kernel.shape[:2] and padding == 0:
        # One output, which as a matrix product takes a CPU a quarter of XLA's convolution.
        product = jnp.tensordot(x, kernel, 3, precision=XLA_PRECISION[precision])
        return product[:, None, None]
    direct = functools.partial(
        _direct, strides=strides, padding=padding, precision=XLA_PRECISION[precision]
    )
    worth_it = x.size * kernel.shape[-1] >= _LEAST_WORK
    if worth_it and (kernel.shape[0], strides, padding) in ((3, 1, 1), (4, 2, 1)):
        return jax.lax.platform_dependent(x, kernel, cpu=winograd, default=direct)
    return direct(x, kernel)


def rounded(precision: Precision, *arrays: Float[Array, "..."]) -> list[Float[Array, "..."]]:
    """Arrays whose products XLA is free to compute at `XLA_PRECISION[precision]`.

    Units that multiply in bfloat16 (TPU) or TF32 (GPU) round the arguments to 8 or 11 significant
    bits: of arguments that have 8 the products are exact there, and alike on every backend.
    """
    if precision == "float32":
        return list(arrays)
    return [jax.lax.reduce_precision(a, exponent_bits=8, mantissa_bits=7) for a in arrays]


def winograd(
    x: Float[Array, "n h w c"], kernel: Float[Array, "r r c d"]
) -> Float[Array, "n h2 w2 d"]:
    """The convolution of padding 1 with 3×3 kernels and stride 1, or with 4×4 and stride 2.

    Args:
        x: Images, whose height and width over the stride are even.
        kernel: Kernels.

    Returns:
        Images.
    """
    n, h, w, c = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    if kernel.shape[0] == 3:
        return _outputs(_products(padded, kernel), 3)
    # A sum of two convolutions of stride 1 with 2×2 kernels, one over the even rows and one over
    # the odd ones, with pairs of columns for channels.
    rows = padded.reshape(n, h // 2 + 1, 2, w // 2 + 1, 2 * c)
    kernels = kernel.reshape(2, 2, 2, 2 * c, -1)
    even, odd = (_products(rows[:, :, i], kernels[:, i]) for i in (0, 1))
    return _outputs(jax.tree.map(operator.add, even, odd), 2)


def _direct(x: Array, kernel: Array, *, strides: int, padding: int, precision: str) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def _products(x: Array, kernel: Array) -> _Grid:
    """(G K Gᵀ) ⊙ (B X Bᵀ), a grid of arrays [n, tiles down, tiles across, d]."""
    r = kernel.shape[0]
    _, b, g = _TRANSFORMS[r]
    h, w = x.shape[1] - r + 1, x.shape[2] - r + 1
    tiles = [[x[:, i : i + h : 2, j : j + w : 2] for j in range(r + 1)] for i in range(r + 1)]
    kernels = [[kernel[i, j] for j in range(r)] for i in range(r)]
    return [
        [jnp.dot(v, u, precision="highest") for v, u in zip(*rows, strict=True)]
        for rows in zip(_transform(b, tiles), _transform(g, kernels), strict=True)
    ]


def _outputs(products: _Grid, r: int) -> Array:
    """A M Aᵀ, its tiles side by side."""
    y = _transform(_TRANSFORMS[r][0], products)
    stacked = jnp.stack([jnp.stack(row, 3) for row in y], 2)
    n, down, _, across, _, d = stacked.shape
    return stacked.reshape(n, 2 * down, 2 * across, d)


def _transform(matrix: _Matrix, x: _Grid) -> _Grid:
    """M X Mᵀ for a grid X of arrays."""
    for _ in range(2):  # each time M Xᵀ, columns first
        x = [[_combine(row, column) for row in matrix] for column in zip(*x, strict=True)]
    return x


def _combine(coefficients: tuple[float, ...], arrays: tuple[Array, ...]) -> Array:
    terms = [c * a for c, a in zip(coefficients, arrays, strict=True) if c]
    return functools.reduce(operator.add, terms)
