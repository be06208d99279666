"""Inflated 3-D Inception (I3D), the network of the Fréchet Video Distance.

The RGB network of Carreira & Zisserman (Quo Vadis, Action Recognition?, CVPR 2017, arXiv
1705.07750), trained on Kinetics-400, restated for inference after the authors' code
(https://github.com/google-deepmind/kinetics-i3d, Apache-2.0). The 400 logits are averaged over
time, which is the output "Mean" of the TF-Hub module that FVD was defined with.

On the CPU XLA's 3-D convolutions are slow and its 2-D ones fast, so there a kernel of several time
steps becomes a 2-D one over as many frames at once: the same products and sums, in a half to a
seventh of the time. Convolutions run in float32 on every backend ("highest" precision), unless
another `precision` is set, as `load_network` does.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from srvp_fd_jax.networks.convolution import XLA_PRECISION, Precision, rounded

CLIP_SIZE = 224
NUM_CLASSES = 400
MIN_FRAMES = 9
"""Fewer leave less than the two time steps that the last pooling averages over."""

# Widths of each Inception module: 1×1×1; 1×1×1 and 3×3×3; the same again; 1×1×1 after pooling.
_MIXED_3 = ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64))
_MIXED_4 = (
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
)
_MIXED_5 = ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128))


def conv3d(
    x: Float[Array, "n t h w c"],
    kernel: Float[Array, "kt kh kw c c2"],
    stride: int,
    precision: Precision = "float32",
) -> Float[Array, "n t2 h2 w2 c2"]:
    """Convolution with TensorFlow's "SAME" padding, in the form that is fastest on the backend."""
    x, kernel = rounded(precision, x, kernel)
    direct = functools.partial(plain, stride=stride, precision=XLA_PRECISION[precision])
    if kernel.shape[0] == 1:
        return direct(x, kernel)
    return lax.platform_dependent(
        x, kernel, cpu=functools.partial(factorised, stride=stride), default=direct
    )


def plain(
    x: Float[Array, "n t h w c"],
    kernel: Float[Array, "kt kh kw c c2"],
    stride: int,
    precision: str = "highest",
) -> Float[Array, "n t2 h2 w2 c2"]:
    """One 3-D convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride,) * 3,
        "SAME",
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        precision=precision,
    )


def factorised(
    x: Float[Array, "n t h w c"], kernel: Float[Array, "kt kh kw c c2"], stride: int
) -> Float[Array, "n t2 h2 w2 c2"]:
    """One 2-D convolution, the frames that the kernel spans lying side by side as channels."""
    kt, kh, kw, c, c2 = kernel.shape
    n, t, h, w, _ = x.shape
    (padding,) = lax.padtype_to_pads((t,), (kt,), (stride,), "SAME")
    x = jnp.pad(x, ((0, 0), padding, (0, 0), (0, 0), (0, 0)))
    starts = np.arange(0, t, stride)
    windows = jnp.moveaxis(x[:, starts[:, None] + np.arange(kt)], 2, 4)  # n t2 h w kt c
    frames = lax.conv_general_dilated(
        windows.reshape(-1, h, w, kt * c),
        jnp.moveaxis(kernel, 0, 2).reshape(kh, kw, kt * c, c2),
        (stride,) * 2,
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    return frames.reshape(n, len(starts), *frames.shape[1:])


def max_pool(
    x: Float[Array, "n t h w c"], window: tuple[int, int, int], strides: tuple[int, int, int]
) -> Float[Array, "n t2 h2 w2 c"]:
    """Max pooling with "SAME" padding, one axis after the other: 3 + 3 + 3 comparisons, not 27."""
    for axis, (size, stride) in enumerate(zip(window, strides, strict=True)):
        if size > 1:
            w, s = [1, 1, 1], [1, 1, 1]
            w[axis], s[axis] = size, stride
            x = nnx.max_pool(x, tuple(w), tuple(s), "SAME")
    return x


class Unit3D(nnx.Module):
    """Convolution, batch normalisation without scale, ReLU."""

    def __init__(
        self, in_features: int, features: int, size: int, stride: int = 1, *, rngs: nnx.Rngs
    ):
        """Makes the layers with random weights, for a kernel of `size`³."""
        initialise = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(initialise(rngs.params(), (*(size,) * 3, in_features, features)))
        self.norm = nnx.BatchNorm(
            features, use_running_average=True, epsilon=1e-3, use_scale=False, rngs=rngs
        )
        self.stride = stride
        self.precision: Precision = "float32"

    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t2 h2 w2 c2"]:
        """Applies the unit."""
        return jax.nn.relu(self.norm(conv3d(x, self.kernel[...], self.stride, self.precision)))


class InceptionModule(nnx.Module):
    """Four branches side by side (Szegedy et al. 2015), inflated to three dimensions."""

    def __init__(
        self, in_features: int, widths: tuple[int, int, int, int, int, int], *, rngs: nnx.Rngs
    ):
        """Makes the layers with random weights."""
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.branch_0 = Unit3D(in_features, b0, 1, rngs=rngs)
        self.branch_1a = Unit3D(in_features, b1a, 1, rngs=rngs)
        self.branch_1b = Unit3D(b1a, b1b, 3, rngs=rngs)
        self.branch_2a = Unit3D(in_features, b2a, 1, rngs=rngs)
        self.branch_2b = Unit3D(b2a, b2b, 3, rngs=rngs)
        self.branch_3b = Unit3D(in_features, b3b, 1, rngs=rngs)
        self.features = b0 + b1b + b2b + b3b

    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t h w c2"]:
        """Applies the module."""
        branches = [
            self.branch_0(x),
            self.branch_1b(self.branch_1a(x)),
            self.branch_2b(self.branch_2a(x)),
            self.branch_3b(max_pool(x, (3, 3, 3), (1, 1, 1))),
        ]
        return jnp.concatenate(branches, axis=-1)


class I3D(nnx.Module):
    """Clips [n, t, 224, 224, 3] with values in [-1, 1] to Kinetics-400 logits, averaged over time.

    The names follow the endpoints of the authors' code ("conv_1a" is its "Conv3d_1a_7x7",
    "mixed_3.0" its "Mixed_3b").
    """

    def __init__(self, *, rngs: nnx.Rngs):
        """Makes the network with random weights; `weights.load_network` with the real ones."""
        self.precision: Precision = "float32"
        self.conv_1a = Unit3D(3, 64, 7, 2, rngs=rngs)
        self.conv_2b = Unit3D(64, 64, 1, rngs=rngs)
        self.conv_2c = Unit3D(64, 192, 3, rngs=rngs)
        self.mixed_3 = _stage(192, _MIXED_3, rngs)
        self.mixed_4 = _stage(self.mixed_3[-1].features, _MIXED_4, rngs)
        self.mixed_5 = _stage(self.mixed_4[-1].features, _MIXED_5, rngs)
        self.logits = nnx.Linear(
            self.mixed_5[-1].features, NUM_CLASSES, precision="highest", rngs=rngs
        )

    def __call__(self, clips: Float[Array, "n t 224 224 3"]) -> Float[Array, "n 400"]:
        """Logits of clips.

        Args:
            clips: Float32 in [-1, 1], of at least 9 frames.

        Returns:
            Logits averaged over time, float32.
        """
        x = self.conv_1a(clips)
        x = max_pool(x, (1, 3, 3), (1, 2, 2))
        x = self.conv_2c(self.conv_2b(x))
        x = max_pool(x, (1, 3, 3), (1, 2, 2))
        for mixed in self.mixed_3:
            x = mixed(x)
        x = max_pool(x, (3, 3, 3), (2, 2, 2))
        for mixed in self.mixed_4:
            x = mixed(x)
        x = max_pool(x, (2, 2, 2), (2, 2, 2))
        for mixed in self.mixed_5:
            x = mixed(x)
        # Pairs of neighbouring time steps, and then those, are averaged before a linear layer.
        x = x.mean(axis=(2, 3))
        return self.logits(((x[:, :-1] + x[:, 1:]) / 2).mean(axis=1))


def _stage(
    in_features: int, widths: tuple[tuple[int, int, int, int, int, int], ...], rngs: nnx.Rngs
) -> nnx.List[InceptionModule]:
    stage: nnx.List[InceptionModule] = nnx.List()
    for w in widths:
        stage.append(InceptionModule(in_features, w, rngs=rngs))
        in_features = stage[-1].features
    return stage
