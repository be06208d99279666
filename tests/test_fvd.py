"""The Fréchet Video Distance on the real network and real videos, against PyTorch."""

import dataclasses
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import i3d
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import torch
from clips import real_clips

from srvp_fd_jax import (
    PROTOCOLS,
    Calculator,
    FrechetDistanceCalculator,
    frechet_video_distance,
    load_statistics,
)
from srvp_fd_jax.networks import weights
from srvp_fd_jax.networks.base import Weights

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*leave the covariance", "ignore:the protocol .* takes 2048 clips"
)


@pytest.fixture(scope="module")
def weights_file(i3d_weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("i3d") / "i3d.safetensors"
    weights.save(i3d_weights, path)
    return path


@pytest.fixture(scope="module")
def fvd(weights_file: Path) -> Calculator:
    return Calculator(weights=weights_file)


@pytest.fixture(scope="module")
def short(weights_file: Path) -> Calculator:
    """The same network on the shortest clips."""
    protocol = dataclasses.replace(PROTOCOLS["tensorflow"], name="short", frames=9)
    return Calculator(protocol, weights=weights_file)


@pytest.fixture(scope="module")
def tensorflow(weights_file: Path) -> Calculator:
    """The same network on clips of any length."""
    return Calculator("tensorflow", weights=weights_file)


def distance(calculator: Calculator, x, y) -> float:
    return float(calculator.distances(x, y)["logits"])


def logits(calculator: Calculator, clips, batch_size: int | None = None) -> jax.Array:
    return calculator.features(clips, batch_size)["logits"]


@pytest.fixture(scope="module")
def clips() -> tuple[np.ndarray, np.ndarray]:
    """Cuts of real videos, and later ones darker, uint8 [4, 16, 72, 88, 3]."""
    frames = real_clips(48)[:, :, ::2, ::2]
    x = np.concatenate([frames[:, :16], frames[:1, 16:32]])
    y = np.concatenate([frames[:, 32:], frames[1:2, 16:32]])
    return x, (y * 0.7).astype(np.uint8)


def test_is_the_distance_of_pytorchs_logits(i3d_weights: Weights, fvd, weights_file, clips):
    """StyleGAN-V's FVD: its resizing, its scale, the PyTorch network, covariances over n."""
    network = i3d.torch_network(i3d_weights.arrays)

    def of_pytorch(x: np.ndarray) -> np.ndarray:
        frames = torch.from_numpy(x).flatten(0, 1).permute(0, 3, 1, 2).float()
        frames = torch.nn.functional.interpolate(frames, (224, 224), mode="bilinear")
        scaled = frames.permute(0, 2, 3, 1).reshape(*x.shape[:2], 224, 224, 3) * 2 / 255 - 1
        return i3d.torch_logits(network, scaled.numpy())

    clips = [c[:3] for c in clips]
    features = [of_pytorch(x) for x in clips]
    np.testing.assert_allclose(logits(fvd, clips[0][:1]), features[0][:1], atol=5e-4)
    mean = ((features[0].mean(axis=0) - features[1].mean(axis=0)) ** 2).sum()
    unbiased = reference.frechet_distance_float64(*features)
    biased = mean + (unbiased - mean) * 2 / 3  # n = 3 on both sides
    got = float(frechet_video_distance(*clips, weights=weights_file))
    assert got == pytest.approx(biased, rel=1e-4)
    assert got != pytest.approx(unbiased, rel=1e-2)


def test_layouts_types_and_batches_give_the_same_features(short, clips):
    x = clips[0][:3, :9]
    # One by one, as streaming takes them: one program less to compile.
    expected = np.concatenate([logits(short, clip[None]) for clip in x])
    first = torch.from_numpy(np.moveaxis(x[:1], -1, 2).copy())
    others = {
        "batches": logits(short, x, batch_size=2),
        "channels first, torch": logits(short, first),
        "floats": logits(short, jnp.asarray(x[:1], jnp.float32) / 255),
    }
    for name, got in others.items():
        np.testing.assert_allclose(got, expected[: len(got)], atol=1e-4, err_msg=name)
    assert [len(got) for got in others.values()] == [3, 1, 1]


def test_streamed_saved_and_merged_statistics_give_the_same_number(short, clips, tmp_path):
    x, y = (c[:, :9] for c in clips)
    short.statistics([x[:1], x[1:3]])["logits"].save(tmp_path / "x.safetensors")
    s1 = load_statistics(tmp_path / "x.safetensors").merge(short.statistics([x[3:]])["logits"])
    got = short.distance(s1, short.statistics(iter([y]))["logits"])
    assert float(got) == pytest.approx(distance(short, x, y), rel=1e-5)
    assert dict(s1.source) == {
        "network": "i3d",
        "output": "logits",
        "protocol": "short",
        "resize": "bilinear_tf1",
        "ddof": "1",
        "frames": "9",
        "precision": "float32",
        "weights_sha256": short.weights_sha256,
    }
    assert int(short.statistics([])["logits"].count) == 0


def test_statistics_of_other_protocols_are_not_compared(fvd, short, clips):
    s1 = fvd.statistics([clips[0][:1]])["logits"]
    s2 = short.statistics([clips[0][:1, :9]])["logits"]
    with pytest.raises(ValueError, match=r"ddof is '0' of one and '1' of the other"):
        fvd.distance(s1, s2)
    with pytest.raises(ValueError, match=r"ddof is '0' of one and '1' of the other"):
        fvd.distance(s2, s2)
    assert fvd.statistics([])["logits"].merge(s1).source == s1.source
    frames = FrechetDistanceCalculator("digits").empty()["frame"]
    with pytest.raises(ValueError, match="network is 'i3d' of one and 'digits' of the other"):
        fvd.distance(s1, frames)


def test_grey_clips_are_repeated(short, clips):
    grey = clips[0][:1, :9, :, :, :1]
    repeated = np.repeat(grey, 3, axis=-1)
    np.testing.assert_allclose(logits(short, grey), logits(short, repeated), atol=1e-4)


def test_under_jit(short, clips):
    x, y = (np.float32(c[:2, :9]) / 255 for c in clips)
    (value,) = jax.jit(Calculator.distances)(short, x, y).values()
    assert float(value) == pytest.approx(distance(short, x, y), rel=1e-4)


def test_gradient_of_features(short, clips):
    # Of the distance in the features, tests/distances/test_frechet.py has it.
    # Reverse mode is traced only: the transposed first layer takes a CPU most of a minute.
    # With noise, as max pooling of what is all alike has one-sided slopes only.
    noise = np.random.default_rng(0).random((2, *clips[0][:1, :9].shape), np.float32)
    x, y = (0.6 * np.float32(c[:1, :9]) / 255 + 0.4 * n for c, n in zip(clips, noise, strict=True))
    slope = jax.jvp(lambda x: logits(short, x), (x,), (y - x,))[1]
    step = 2e-4 * (y - x)
    difference = logits(short, x + step) - logits(short, x - step)
    assert np.linalg.norm(difference / 4e-4 - slope) < 0.04 * np.linalg.norm(slope)
    gradient = jax.eval_shape(jax.grad(lambda x: logits(short, x).sum()), x)
    assert gradient.shape == x.shape


def test_two_devices_give_the_number_of_one(short, clips, weights_file, tmp_path):
    x, y = (c[:4, :9] for c in clips)
    np.savez(tmp_path / "clips.npz", x, y)
    code = f"""
        import dataclasses
        import jax
        import numpy as np
        import srvp_fd_jax
        from jax.sharding import NamedSharding, PartitionSpec as P

        protocol = dataclasses.replace(
            srvp_fd_jax.PROTOCOLS["tensorflow"], name="short", frames=9
        )
        fvd = srvp_fd_jax.Calculator(protocol, weights={str(weights_file)!r})
        mesh = jax.make_mesh((2,), ("clips",))
        clips = np.load({str(tmp_path / "clips.npz")!r}).values()
        x, y = (jax.device_put(c, NamedSharding(mesh, P("clips"))) for c in clips)
        print(float(fvd.distances(x, y)["logits"]))
    """
    environment = {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2",
        "OPENBLAS_NUM_THREADS": "1",
    }
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert float(result.stdout) == pytest.approx(distance(short, x, y), rel=1e-5)


@pytest.mark.parametrize(
    ("protocol", "change", "message"),
    [
        ("fvd", lambda x: x[:, :15], "x: got clips with 15 frames, but the protocol 'fvd2048_16"),
        ("tensorflow", lambda x: x[:, :8], "x: got clips with 8 frames, but 'logits.* at least 9"),
        ("tensorflow", lambda x: x[:, :9], "y: got clips with 16 frames, not 9 as in x"),
        (
            "fvd",
            lambda x: x[..., :2],
            r"x: got shape .*, expected \[N, T, H, W, C\] or .* 1 or 3 ch",
        ),
        ("fvd", lambda x: x[0], r"x: got shape \(16, 72, 88, 3\), expected"),
        ("fvd", lambda x: x[:, :, :0], "expected frames with pixels"),
        ("fvd", np.float32, "x: got values from 0 to .*divide by 255 or pass uint8"),
        ("fvd", lambda x: np.full_like(x, np.nan, np.float32), "x: got values that are not finite"),
        ("fvd", np.int32, "x: got dtype int32, allowed are uint8"),
        ("fvd", lambda x: x[:1], "x: got 1 samples, a distance needs at least 2"),
    ],
)
def test_bad_clips_are_told(protocol: str, change, message: str, clips, request):
    x, y = clips
    with pytest.raises(ValueError, match=message):
        request.getfixturevalue(protocol).distances(change(x), y)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"protocol": "fvd"}, "protocol: got 'fvd', allowed are tensorflow, fvd2048"),
        ({"weights": __file__}, "not a PyTorch checkpoint"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, object], message: str, clips, weights_file):
    with pytest.raises(ValueError, match=message):
        frechet_video_distance(*clips, **({"weights": weights_file} | arguments))


def test_batches_of_other_sizes_are_told(fvd, clips):
    with pytest.raises(ValueError, match=r"batches\[1\]: got samples .* expected .* as in"):
        fvd.statistics([clips[0][:2], clips[0][:2, :, :40]])


@pytest.mark.filterwarnings("default")
def test_numbers_of_clips_that_are_not_the_protocols_are_warned_of(fvd, clips):
    with (
        pytest.warns(UserWarning, match="2048 clips per side, got 2 and 3: do not compare"),
        pytest.warns(UserWarning, match="x: 2 samples for 400 feature dimensions"),
    ):
        fvd.distances(clips[0][:2], clips[1][:3])
