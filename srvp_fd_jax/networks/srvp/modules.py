"""The layers of SRVP, and the networks that it infers features with.

They follow the authors' code (https://github.com/edouardelasalles/srvp, Apache-2.0). `precision`
applies to the convolutions only; linear layers always run in float32 ("highest").
"""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from srvp_fd_jax.networks.kernels import convolution, gradients
from srvp_fd_jax.networks.kernels.convolution import Precision
from srvp_fd_jax.networks.kernels.pooling import max_pool_2x2

_Conv = functools.partial(nnx.Conv, use_bias=False)  # only holds the kernel for `ConvBlock`
Linear = functools.partial(nnx.Linear, precision="highest")  # in float32 on every backend
_leaky_relu = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation as PyTorch's, with a momentum of 0.1 in its terms.

    In training mode (`train()` of a module around it) it normalises with the batch's mean and
    biased variance, and moves the running variance towards the unbiased one, where Flax takes the
    biased one. Raises a `ValueError` if that has no value.
    """

    scale: nnx.Param[Array]
    bias: nnx.Param[Array]

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:  # type: ignore[override]
        """Normalises images over all but the last axis."""
        if self.use_running_average:
            return super().__call__(x)
        count, old = x.size // x.shape[-1], self.momentum
        if count < 2:
            raise ValueError("x: got one value per channel, training needs at least 2")
        mean = jax.lax.stop_gradient(x).mean((0, 1, 2))
        var = jnp.square(jax.lax.stop_gradient(x) - mean).mean((0, 1, 2))
        self.mean[...] = old * self.mean[...] + (1 - old) * mean
        self.var[...] = old * self.var[...] + (1 - old) * var * (count / (count - 1))
        deviation = jnp.sqrt(var + self.epsilon)
        return gradients.normalise(x, mean, deviation, self.scale[...], self.bias[...])


class ConvBlock(nnx.Module):
    """Convolution or transposed convolution, batch normalisation, activation.

    The normalisation takes the statistics from training, and those of the batch after `train()`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        rngs: nnx.Rngs,
        strides: int = 1,
        padding: int = 1,
        transposed: bool = False,
        normalise: bool = True,
        activation: Callable[[Array], Array] = _leaky_relu,
    ):
        """Makes the layers with random weights."""
        # A transposed convolution has the kernel of the convolution that it transposes.
        sizes = (out_features, in_features) if transposed else (in_features, out_features)
        self.conv = _Conv(*sizes, (kernel_size, kernel_size), rngs=rngs)
        self.strides, self.padding, self.transposed = strides, padding, transposed
        self.precision: Precision = "float32"
        self.use_running_average = True  # which `train()` and `eval()` set
        self.norm = (
            BatchNorm(out_features, use_running_average=True, momentum=0.9, epsilon=1e-5, rngs=rngs)
            if normalise
            else None
        )
        self.activation = activation

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        """Applies the block."""
        module = convolution if self.use_running_average else gradients
        x = (module.transposed_convolution if self.transposed else module.convolution)(
            x,
            self.conv.kernel[...],
            strides=self.strides,
            padding=self.padding,
            precision=self.precision,
        )
        if self.norm is not None:
            x = self.norm(x)
        return self.activation(x)


def _last_conv(nf: int, nhx: int, rngs: nnx.Rngs) -> ConvBlock:
    return ConvBlock(8 * nf, nhx, 4, padding=0, activation=jnp.tanh, rngs=rngs)


class DCGAN64Encoder(nnx.Module):
    """Five convolutions (Radford et al. 2016) from 64×64 frames to vectors in [-1, 1]."""

    def __init__(self, nc: int, nf: int, nhx: int, *, rngs: nnx.Rngs):
        """Makes the layers with random weights."""
        widths = [nc, nf, 2 * nf, 4 * nf, 8 * nf]
        self.conv = nnx.List(
            ConvBlock(widths[i], widths[i + 1], 4, strides=2, normalise=i > 0, rngs=rngs)
            for i in range(4)
        )
        self.last_conv = _last_conv(nf, nhx, rngs)

    def with_skips(
        self, frames: Float[Array, "n 64 64 c"]
    ) -> tuple[Float[Array, "n nhx"], list[Float[Array, "n _ _ _"]]]:
        """Encodes frames; also returns the outputs of all convolutions but the last."""
        skips, x = [], frames
        for block in self.conv:
            x = block(x)
            skips.append(x)
        return self.last_conv(x)[:, 0, 0], skips

    def __call__(self, frames: Float[Array, "n 64 64 c"]) -> Float[Array, "n nhx"]:
        """Encodes frames."""
        return self.with_skips(frames)[0]


class VGG64Encoder(nnx.Module):
    """Four stages of 3×3 convolutions (Simonyan & Zisserman 2015), each before max pooling."""

    def __init__(self, nc: int, nf: int, nhx: int, *, rngs: nnx.Rngs):
        """Makes the layers with random weights."""
        stages = [[nf] * 2, [2 * nf] * 2, [4 * nf] * 3, [8 * nf] * 3]
        width = nc
        self.conv: nnx.List[nnx.List[ConvBlock]] = nnx.List()
        for stage in stages:
            blocks: nnx.List[ConvBlock] = nnx.List()
            for out in stage:
                blocks.append(ConvBlock(width, out, 3, rngs=rngs))
                width = out
            self.conv.append(blocks)
        self.last_conv = _last_conv(nf, nhx, rngs)

    def with_skips(
        self, frames: Float[Array, "n 64 64 c"]
    ) -> tuple[Float[Array, "n nhx"], list[Float[Array, "n _ _ _"]]]:
        """Encodes frames; also returns the outputs of the stages before max pooling."""
        skips, x = [], frames
        for stage in self.conv:
            for block in stage:
                x = block(x)
            skips.append(x)
            x = max_pool_2x2(x)
        return self.last_conv(x)[:, 0, 0], skips

    def __call__(self, frames: Float[Array, "n 64 64 c"]) -> Float[Array, "n nhx"]:
        """Encodes frames."""
        return self.with_skips(frames)[0]


class Content(nnx.Module):
    """Infers the content variable w, a permutation-invariant function of a clip's encodings."""

    def __init__(self, nhx: int, nh_inf: int, *, rngs: nnx.Rngs):
        """Makes the layers with random weights."""
        self.projection = Linear(nhx, nh_inf, rngs=rngs)
        self.output = Linear(nh_inf, nh_inf, rngs=rngs)

    def __call__(self, encodings: Float[Array, "n t nhx"]) -> Float[Array, "n nh_inf"]:
        """Computes w with values in [-1, 1]."""
        return jnp.tanh(self.output(jax.nn.relu(self.projection(encodings)).sum(axis=1)))


class MLP(nnx.Module):
    """Linear layers with a ReLU before every layer but the first."""

    def __init__(self, n_in: int, n_hidden: int, n_out: int, layers: int, *, rngs: nnx.Rngs):
        """Makes the layers with random weights."""
        sizes = [n_in, *[n_hidden] * (layers - 1), n_out]
        self.layers = nnx.List(Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(sizes))

    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d2"]:
        """Applies the layers."""
        for i, layer in enumerate(self.layers):
            x = layer(x if i == 0 else jax.nn.relu(x))
        return x


class InitialState(MLP):
    """Infers the Gaussian q(y₀) over the initial state from a clip's encodings, in time order."""

    def __call__(self, encodings: Float[Array, "n nt_inf nhx"]) -> Float[Array, "n two_ny"]:
        """Computes the mean and the raw scale of q(y₀), concatenated."""
        return super().__call__(encodings.reshape(encodings.shape[0], -1))


def normal_from_raw(
    raw: Float[Array, "*n two_d"],
) -> tuple[Float[Array, "*n d"], Float[Array, "*n d"]]:
    """Computes the means and standard deviations of diagonal Gaussians.

    Args:
        raw: Mean and raw scale, concatenated. The standard deviation is softplus(raw scale) + 1e-8,
            as in the authors' code.
    """
    mean, raw_scale = jnp.split(raw, 2, axis=-1)
    return mean, jax.nn.softplus(raw_scale) + 1e-8


def gaussian_from_raw(
    raw: Float[Array, "*n two_ny"],
) -> tuple[Float[Array, "*n ny"], Float[Array, "*n ny"]]:
    """Computes the means and variances of the Gaussians q(y₀), see `normal_from_raw`.

    Args:
        raw: Mean and raw scale from `SRVP.initial_state`, concatenated.
    """
    mean, deviation = normal_from_raw(raw)
    return mean, deviation**2
