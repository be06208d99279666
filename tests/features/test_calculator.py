import copy
import dataclasses
import importlib
import json
import pickle
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
import srvp_fd
import torch
from checkpoints import PUBLISHED, SMALL, random_model, write_checkpoint
from flax import nnx

import srvp_fd_jax
from srvp_fd_jax import (
    NETWORKS,
    PROTOCOLS,
    Calculator,
    FeatureStatistics,
    FrechetDistanceCalculator,
    frechet_distance_from_statistics,
)
from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.features import calculator as calculators
from srvp_fd_jax.networks.base import Architecture
from srvp_fd_jax.networks.srvp import checkpoint
from srvp_fd_jax.networks.weights import load_weights

# The package hides this module behind its function of the same name.
srvp_fd_module = importlib.import_module("srvp_fd.frechet_distance")

COMPARISON_TYPES = ("frame", "static_content", "dynamics")


def patterns(seed: int, n: int, length: int, channels: int) -> np.ndarray:
    """Clips of drifting gratings of random frequency, colour and speed, uint8."""
    rng = np.random.default_rng(seed)
    grid = np.linspace(0, 2 * np.pi, 64)
    frequency, speed = (
        rng.uniform(0, 4, (2, n, 1, 1, 1, channels)),
        rng.uniform(-1, 1, (n, 1, 1, 1, 1)),
    )
    t = np.arange(length).reshape(-1, 1, 1, 1)
    phase = frequency[0] * grid[:, None, None] + frequency[1] * grid[:, None] + speed * t
    brightness = rng.uniform(0, 1, (n, 1, 1, 1, channels))
    return (255 * brightness * (0.5 + 0.5 * np.sin(phase))).astype(np.uint8)


def in_torch(clips: np.ndarray) -> torch.Tensor:
    """As srvp-fd takes them: float in [0, 1], channels first."""
    return torch.from_numpy(np.moveaxis(clips, -1, -3) / np.float32(255))


@pytest.fixture
def their_calculator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes srvp-fd's calculator of a checkpoint folder, in place of its download."""

    def make(folder: Path, method: str = "schur") -> srvp_fd.FrechetDistanceCalculator:
        monkeypatch.setattr(
            srvp_fd_module,
            "hf_hub_download",
            lambda filename, **_: str(folder / Path(filename).name),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # skip connections
            return srvp_fd.FrechetDistanceCalculator(device="cpu", sqrt_trace_method=method)

    return make


def our_calculator(dataset: str, folder: Path | None = None) -> FrechetDistanceCalculator:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # skip connections
        return FrechetDistanceCalculator(dataset, weights=folder)


def variants(x: np.ndarray) -> dict[str, Any]:
    """Both types and both layouts of the same clips or frames."""
    first = np.moveaxis(x, -1, -3)
    return {
        "uint8, channels last": x,
        "uint8, channels first": first,
        "float, channels last": np.float64(x) / 255,
        "float, channels first": in_torch(x),
    }


def assert_features_equal(ours: FrechetDistanceCalculator, theirs: Any, x: np.ndarray):
    """Holds the features of clips, and of their first frames, to srvp-fd's."""
    pairs = {
        theirs.extract_features: (ours.extract_features, x[:, 0]),
        theirs.extract_w: (ours.extract_w, x),
        theirs.extract_q_y_0_params: (ours.extract_q_y_0_params, x),
    }
    for their_features, (our_features, samples) in pairs.items():
        expected = their_features(in_torch(samples)).numpy()
        assert expected.std(axis=0).mean() > 1e-2, "the features must vary for the test to tell"
        chex.assert_trees_all_close(our_features(samples), expected, atol=2e-5, rtol=0)


def assert_equals(
    ours: FrechetDistanceCalculator,
    theirs: Any,
    x: np.ndarray,
    y: np.ndarray,
    types_and_layouts: Sequence[str] = ("float, channels first",),
):
    """Holds features of clips, and distances by default of the same tensors, to srvp-fd's own."""
    assert_features_equal(ours, theirs, x)
    for comparison_type in COMPARISON_TYPES:
        a, b = (x[:, 0], y[:, 0]) if comparison_type == "frame" else (x, y)
        expected = theirs(in_torch(a), in_torch(b), comparison_type)
        assert expected > 1e-2
        for name in types_and_layouts:
            got = ours(variants(a)[name], variants(b)[name], comparison_type)
            assert (got.dtype, got.shape) == (jnp.float32, ())
            assert float(got) == pytest.approx(expected, rel=1e-4, abs=1e-6), (
                comparison_type,
                name,
            )


@pytest.fixture
def any_number_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """For srvp-fd, which refuses fewer than 129: more than there is time for."""
    monkeypatch.setattr(srvp_fd_module, "_validate_input_shapes", lambda *_: None)
    monkeypatch.setattr(srvp_fd_module, "_validate_video_input_shapes", lambda *_: None)


@pytest.mark.filterwarnings("ignore:.*leave the covariance", "ignore:Matrix is singular")
@pytest.mark.usefixtures("any_number_of_samples")
@pytest.mark.parametrize("dataset", PUBLISHED)
def test_published_configurations_equal_srvp_fd(
    dataset: str, tmp_path: Path, their_calculator: Any
):
    # Features of few frames, by the definition of convolution, and distances of more, by Winograd.
    config = PUBLISHED[dataset]
    folder = write_checkpoint(tmp_path / dataset, config, seed=1)
    ours, theirs = our_calculator(dataset, folder), their_calculator(folder)
    x, y = (patterns(seed, 5, config["nt_inf"] + 1, config["nc"]) for seed in (0, 1))
    assert_features_equal(ours, theirs, x[:2])
    for comparison_type, got in ours.distances(x, y).items():
        a, b = x, y
        if comparison_type == "frame":
            a, b = (c.reshape(-1, *c.shape[2:]) for c in (x, y))
        expected = theirs(in_torch(a), in_torch(b), comparison_type)
        assert expected > 1e-2
        assert float(got) == pytest.approx(expected, rel=1e-4, abs=1e-6), comparison_type


@pytest.mark.filterwarnings("ignore:.*leave the covariance", "ignore:Matrix is singular")
@pytest.mark.usefixtures("any_number_of_samples")
@pytest.mark.parametrize("dataset", ["mmnist_stochastic", "human"])
def test_every_type_and_layout_gives_the_number_of_srvp_fd(
    dataset: str, tmp_path: Path, their_calculator: Any
):
    config = PUBLISHED[dataset] | {"nf": 4}
    folder = write_checkpoint(tmp_path / dataset, config, seed=1)
    x, y = (patterns(seed, 12, config["nt_inf"] + 1, config["nc"]) for seed in (0, 1))
    assert_equals(our_calculator(dataset, folder), their_calculator(folder), x, y, [*variants(x)])


@pytest.fixture(scope="module")
def clips() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return moving_digits(rng, 300, 6), moving_digits(rng, 280, 6, swapped=2)


def bundled_checkpoint(folder: Path) -> Path:
    """The bundled weights put back into a PyTorch checkpoint, the unused parts random."""
    bundled = load_weights("digits")
    config = {name: value for name, value in bundled.config.items() if name != "training"}
    state_dict = random_model(config).state_dict()
    for name, array in bundled.arrays.items():
        transposed = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        state_dict[checkpoint._torch_key(name, bundled.architecture)] = torch.from_numpy(
            transposed.copy()
        )
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(state_dict, folder / "model.pt")
    return folder


def test_bundled_model_equals_srvp_fd(digits, clips, tmp_path, their_calculator, monkeypatch):
    assert_equals(digits, their_calculator(bundled_checkpoint(tmp_path / "digits")), *clips)


@pytest.mark.parametrize("comparison_type", ["frame", "dynamics"])
@pytest.mark.filterwarnings("ignore:.*leave the covariance")
def test_function_batches_and_jit_give_the_calculators_number(comparison_type, digits, clips):
    x, y = clips[0][:60], clips[1][:50]
    if comparison_type == "frame":
        x, y = x[:, 0], y[:, 0]
    expected = digits(x, y, comparison_type)
    for batch_size in (1000, 7):
        got = digits(x, y, comparison_type, batch_size)
        chex.assert_trees_all_close(got, expected, rtol=1e-5)

    def function(x, y):
        return srvp_fd_jax.frechet_distance(x, y, "digits", comparison_type)

    chex.assert_trees_all_close(function(x, y), expected, rtol=1e-6)
    chex.assert_trees_all_close(jax.jit(function)(x, y), expected, rtol=1e-5)
    passed = jax.jit(lambda calculator, x, y: calculator(x, y, comparison_type))
    chex.assert_trees_all_close(passed(digits, x, y), expected, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*leave the covariance")
def test_all_distances_are_those_of_the_calls(digits, clips):
    x, y = clips[0][:60], clips[1][:50]
    expected = {
        name: digits(*(c.reshape(-1, 64, 64, 1) if name == "frame" else c for c in (x, y)), name)
        for name in COMPARISON_TYPES
    }
    chex.assert_trees_all_close(digits(x, y, "frame"), expected["frame"], rtol=1e-5)
    for samples in ((x, y), (jnp.asarray(x), jnp.asarray(y))):
        chex.assert_trees_all_close(digits.distances(*samples), expected, rtol=1e-5)
    jitted = jax.jit(lambda calculator, x, y: calculator.distances(x, y, batch_size=7))
    chex.assert_trees_all_close(jitted(digits, x, y), expected, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*leave the covariance")
def test_all_distances_encode_each_frame_once(digits, clips):
    def encoded(function):
        program = jax.jit(function).lower(clips[0][:8]).as_text()
        return re.findall(r"convolution.* -> tensor<(\w+)xf32>", program)

    def alone(x):
        frames = x.reshape(-1, 64, 64, 1)
        return digits(frames, frames, batch_size=4 * x.shape[1])

    assert encoded(alone)
    together = encoded(lambda x: list(digits.distances(x, x, batch_size=4).values()))
    assert together == encoded(alone)


def test_weights_are_read_once(monkeypatch, tmp_path):
    folder = write_checkpoint(tmp_path / "small", SMALL)
    network, reads = NETWORKS["mmnist_stochastic"], []
    counted = dataclasses.replace(
        network, read=lambda path: reads.append(path) or network.read(path)
    )
    monkeypatch.setitem(NETWORKS, "mmnist_stochastic", counted)

    def function(x, y):
        return srvp_fd_jax.frechet_distance(x, y, weights=folder)

    # The first use is inside a trace: what it keeps must be arrays, not tracers.
    x, y = (patterns(seed, 20, 1, 1)[:, 0] for seed in (0, 1))
    chex.assert_trees_all_close(jax.jit(function)(x, y), function(x, y), rtol=1e-4)
    function(x[1:], y[1:])
    assert reads == [folder]


def test_calculator_is_a_pytree(digits, clips):
    leaves, tree = jax.tree.flatten(digits)
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)
    again = jax.tree.unflatten(tree, leaves)
    assert type(again) is FrechetDistanceCalculator
    assert (again.protocols, again.weights_sha256) == (digits.protocols, digits.weights_sha256)
    x = clips[0][:2]
    chex.assert_trees_all_equal(again.extract_w(x), digits.extract_w(x))
    zeros = jax.tree.map(jnp.zeros_like, digits)
    of_zeros = jax.jit(lambda calculator: calculator.extract_w(x))(zeros)
    chex.assert_trees_all_close(of_zeros, jnp.zeros((2, 256)))


def test_weights_that_an_optimiser_changed_are_refused(digits, clips):
    x = clips[0][:2]
    optimiser = optax.adamw(1e-3, weight_decay=0.1)
    model = {"scale": jnp.ones(()), "metric": digits}
    updates, _ = optimiser.update(jax.tree.map(jnp.zeros_like, model), optimiser.init(model), model)
    changed = optax.apply_updates(model, updates)["metric"]
    s = digits.only("dynamics").empty()["dynamics"]
    for use in (
        lambda: changed.extract_w(x),
        lambda: changed(x, x, "static_content"),
        lambda: changed.empty(),
        lambda: changed.statistics([x]),
        lambda: changed.distance(s, s),
    ):
        with pytest.raises(ValueError, match="network: the weights were changed"):
            use()
    copied = jax.tree.map(jnp.copy, digits)
    chex.assert_trees_all_equal(copied.extract_w(x), digits.extract_w(x))


def test_weights_that_were_changed_in_place_are_refused(digits, clips, without_type_checks):
    x = clips[0][:2]
    on_host = jax.tree.map(np.array, digits)
    on_host.extract_w(x)
    for array in on_host.network.arrays.values():
        array *= 0.5  # in place
    with pytest.raises(ValueError, match="network: the weights were changed"):
        on_host.extract_w(x)


@pytest.mark.parametrize("comparison_type", COMPARISON_TYPES)
@pytest.mark.filterwarnings("ignore:.*leave the covariance")
def test_gradient_equals_finite_differences(comparison_type, digits):
    # No exactly black pixels: there the first layer sits on the kink of its leaky ReLU.
    x, y = (np.float32(patterns(seed, 40, 5, 1)) / 300 + 0.1 for seed in (0, 1))
    if comparison_type == "frame":
        x, y = x[:, 0], y[:, 0]
    f = jax.jit(jax.value_and_grad(lambda x, y: digits(x, y, comparison_type)))
    _, gradient = f(x, y)
    chex.assert_tree_all_finite(gradient)
    direction = np.asarray(gradient / jnp.linalg.norm(gradient))
    h = 1e-2
    slope = (f(x + h * direction, y)[0] - f(x - h * direction, y)[0]) / (2 * h)
    assert float(slope) == pytest.approx(float(jnp.linalg.norm(gradient)), rel=1e-2)
    chex.assert_tree_all_finite(f(y, y))


class Model(nnx.Module):
    """A generator that holds its metric and the statistics of the real set."""

    def __init__(self, metric: FrechetDistanceCalculator, real: np.ndarray):
        self.brightness = nnx.Param(jnp.full((64, 64, 1), 0.5))
        self.metric = metric
        self.reference = metric.only("frame").statistics([real])["frame"]

    def __call__(self, noise):
        features = self.metric.extract_features(noise * self.brightness[...])
        generated = FeatureStatistics.from_features(features)
        return frechet_distance_from_statistics(generated, self.reference)


@pytest.mark.filterwarnings("ignore:.*leave the covariance")
def test_a_metric_inside_a_module_stays_what_it_is(digits, clips):
    real, noise = (np.float32(c[:40, 0]) / 255 for c in clips)
    model = Model(digits, real)
    before = float(model(noise))
    model.train()
    assert float(model(noise)) == before
    model.eval()
    optimiser = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimiser):
        value, gradient = nnx.value_and_grad(lambda model: model(noise))(model)
        optimiser.update(model, gradient)
        return value

    values = [float(step(model, optimiser)) for _ in range(3)]
    assert values[0] == pytest.approx(before, rel=1e-5)
    assert values[2] < values[1] < values[0]
    chex.assert_trees_all_equal(model.metric, digits)
    assert [path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))] == [("brightness",)]
    # Not even as the parameters themselves, as in a dictionary of all that an optimiser is given.
    of_weights = jax.grad(lambda metric: metric(real, noise))(digits)
    chex.assert_trees_all_equal(of_weights, jax.tree.map(jnp.zeros_like, digits))


def test_the_network_itself_can_be_trained():
    network = srvp_fd_jax.load_network("digits")
    module, x = network.module(), jnp.ones((2, 64, 64, 1)) / 2
    gradient = nnx.grad(lambda module: module.encoder(x).sum())(module)
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient["encoder"]))


def _by_orbax(tree, folder: Path):
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "saved", tree)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "saved", jax.tree.map(jnp.zeros_like, tree))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*leave the covariance")
@pytest.mark.usefixtures("without_type_checks")  # Orbax makes trees of other leaves
@pytest.mark.parametrize(
    "copied",
    [
        lambda tree, _: pickle.loads(pickle.dumps(tree)),
        lambda tree, _: copy.copy(tree),
        lambda tree, _: copy.deepcopy(tree),
        _by_orbax,
    ],
    ids=["pickle", "copy", "deepcopy", "orbax"],
)
def test_copies_give_the_same_number(copied, digits, clips, tmp_path):
    x, y = clips[0][:30], clips[1][:30]
    dynamics = digits.only("dynamics")
    made, reference = copied((dynamics, dynamics.statistics([x])["dynamics"]), tmp_path)
    got = frechet_distance_from_statistics(reference, made.statistics([y])["dynamics"])
    assert float(got) == float(dynamics.distances(x, y)["dynamics"])
    assert (made.protocols, made.weights_sha256) == (dynamics.protocols, digits.weights_sha256)


@pytest.mark.filterwarnings("ignore:.*leave the covariance")
def test_strict_settings(strict_setting, digits, clips):
    x, y = (jnp.asarray(c[:30]) for c in clips)
    frames = x[:, 0]
    expected = digits.distances(x, y)
    with strict_setting:
        for name in ("static_content", "dynamics"):
            chex.assert_trees_all_close(digits(x, y, name), expected[name], rtol=1e-5)
        chex.assert_trees_all_close(digits.distances(x, y), expected, rtol=1e-5)
        digits.statistics([x, y])
        digits.only("frame").statistics([frames], batch_size=4)
        digits.update(digits.empty(), x)


def test_bfloat16_is_near_and_is_not_compared_with_float32(digits):
    faster = srvp_fd_jax.FrechetDistanceCalculator("digits", precision="bfloat16")
    heads = [m for _, m in nnx.iter_modules(faster.network.module()) if isinstance(m, nnx.Linear)]
    assert {layer.precision for layer in heads} == {"highest"}
    frames = patterns(0, 20, 1, 1)[:, 0]
    features, exact = faster.extract_features(frames), digits.extract_features(frames)
    assert 1e-4 < np.abs(features - exact).max() < 0.1
    with pytest.raises(ValueError, match="precision"):
        faster.empty()["frame"].merge(digits.empty()["frame"])


@pytest.mark.usefixtures("without_type_checks")
def test_unknown_precision_is_told():
    with pytest.raises(ValueError, match="precision: got 'float16', allowed are float32, bf"):
        FrechetDistanceCalculator("digits", precision="float16")


def test_content_is_of_the_last_frames_and_dynamics_of_the_first(digits, clips):
    x = clips[0][:3]
    nt_inf = digits.network.architecture.nt_inf
    later = np.concatenate([x[:, -1:], x], axis=1)
    chex.assert_trees_all_close(
        digits.extract_w(later), digits.extract_w(x[:, -nt_inf:]), atol=1e-6
    )
    longer = np.concatenate([x, x[:, :1]], axis=1)
    chex.assert_trees_all_close(
        digits.extract_q_y_0_params(longer), digits.extract_q_y_0_params(x[:, :nt_inf]), atol=1e-6
    )


@pytest.mark.filterwarnings("ignore:.*leave the covariance")
def test_long_clips_are_encoded_part_after_part(digits, monkeypatch):
    long = np.random.default_rng(0).integers(0, 256, (2, 101, 64, 64, 1), np.uint8)
    expected = digits.extract_features(long.reshape(-1, 64, 64, 1)).reshape(2, 101, -1)
    monkeypatch.setattr(Architecture, "frames_at_once", lambda _: 4)
    encode = jax.jit(lambda x: digits.network.features(x / 255, ("frame",))["frame"])
    convolutions = re.findall(
        r"convolution.* -> tensor<(\d+)x", encode.lower(np.float32(long)).as_text()
    )
    assert max(map(int, convolutions)) <= 2 * 4 * 4
    chex.assert_trees_all_close(encode(np.float32(long)), expected, atol=1e-6)


def test_eigh_is_close(digits, clips):
    textbook = FrechetDistanceCalculator("digits", method="eigh")
    x, y = clips
    chex.assert_trees_all_close(textbook(x, y, "dynamics"), digits(x, y, "dynamics"), rtol=1e-2)


def test_distance_from_features(digits, clips):
    f1, f2 = (digits.extract_features(c[:, 0]) for c in clips)
    expected = digits(clips[0][:, 0], clips[1][:, 0])
    got = digits.calculate_frechet_distance_from_features(np.asarray(f1), f2)
    chex.assert_trees_all_close(got, expected, rtol=1e-6)


def test_warnings(digits, clips, tmp_path):
    x = clips[0][:, 0]
    with pytest.warns(UserWarning, match="y: 128 samples for 128 feature dimensions"):
        digits(x, x[:128])
    with pytest.warns(UserWarning, match="256") as warned:
        digits.distances(clips[0][:25], clips[1][:22])
    messages = [str(w.message).split(" leave")[0] for w in warned]
    assert messages == [  # of 150 and 132 frames and for the 20 of dynamics enough
        "x: 25 samples for 256 feature dimensions",
        "y: 22 samples for 256 feature dimensions",
    ]
    config = PUBLISHED["kth"] | {"nf": 4}
    folder = write_checkpoint(tmp_path / "kth", config)
    calculators._warn_once.cache_clear()
    with pytest.warns(UserWarning, match="'kth' was trained with skip connections"):
        FrechetDistanceCalculator("kth", weights=folder)
    FrechetDistanceCalculator("kth", weights=folder)  # once a process


def test_features_of_all_outputs_are_those_of_the_methods(digits, clips):
    x = clips[0][:5]
    expected = {
        "frame": digits.extract_features(x.reshape(-1, 64, 64, 1)).reshape(5, 6, -1),
        "static_content": digits.extract_w(x),
        "dynamics": digits.extract_q_y_0_params(x),
    }
    chex.assert_trees_all_close(digits.features(x), expected, atol=1e-6)
    chex.assert_trees_all_close(digits.features(x, batch_size=2), expected, atol=1e-6)
    assert list(digits.only("dynamics", "frame").features(x)) == ["dynamics", "frame"]


def test_updates_give_the_statistics_of_a_stream(digits, clips):
    x = clips[0][:40]
    expected, state = digits.statistics([x]), digits.empty()
    for part in (x[:25], x[25:]):
        state = jax.jit(Calculator.update)(digits, state, part)
    for output, s in digits.update(digits.update(digits.empty(), x[:25]), x[25:]).items():
        for got in (s, state[output]):
            assert (got.source, got.count) == (expected[output].source, expected[output].count)
            chex.assert_trees_all_close(
                got.covariance(), expected[output].covariance(), atol=1e-6, rtol=1e-5
            )


@pytest.mark.filterwarnings("ignore:.*leave the covariance")
def test_distances_of_statistics_are_those_of_the_clips(digits, clips):
    x, y = clips[0][:60], clips[1][:50]
    of_x, of_y = digits.statistics([x]), digits.statistics([y])
    for output, expected in digits.distances(x, y).items():
        got = digits.distance(of_x[output], of_y[output])
        chex.assert_trees_all_close(got, expected, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*leave the covariance")
@pytest.mark.parametrize("source", [(), (("dataset", "mine"),)], ids=["unmarked", "other marks"])
@pytest.mark.parametrize("ddof", [0, 1])
def test_statistics_of_ones_own_are_divided_as_the_protocol_says(ddof, source, clips):
    preset = PROTOCOLS["srvp:digits:dynamics"]
    only = Calculator(dataclasses.replace(preset, output="static_content", name="own", ddof=ddof))
    own = [
        dataclasses.replace(FeatureStatistics.from_features(f), source=source)
        for f in (only.features(c[:9])["static_content"] for c in clips)
    ]
    got, expected = only.distance(*own), frechet_distance_from_statistics(*own, ddof=ddof)
    chex.assert_trees_all_close(got, expected, rtol=1e-6)


def test_a_protocols_skip_cuts_the_first_frames_off(digits, clips):
    x, y = (np.concatenate([c[:, :1]] * 2 + [c], axis=1) for c in clips)
    of_dynamics = digits.only("dynamics")
    skipping = Calculator("srvp:digits:dynamics+skip=2")
    expected = of_dynamics.distances(*clips)["dynamics"]
    assert float(of_dynamics.distances(x, y)["dynamics"]) != pytest.approx(float(expected), rel=0.1)
    for made in (np.asarray, jnp.asarray):
        got = skipping.distances(made(x), made(y))["dynamics"]
        chex.assert_trees_all_close(got, expected, rtol=1e-5)
    s1, s2 = (skipping.update(skipping.empty(), c)["dynamics"] for c in (x, y))
    chex.assert_trees_all_close(skipping.distance(s1, s2), expected, rtol=1e-5)
    features = skipping.features(x)["dynamics"]
    chex.assert_trees_all_close(features, of_dynamics.features(clips[0])["dynamics"], rtol=1e-5)
    message = "got clips with 6 frames, of which the first 2 are skipped, but 'dynamics' .* 5"
    with pytest.raises(ValueError, match=f"x: {message}"):
        skipping.distances(*clips)
    with pytest.raises(ValueError, match="y: got clips with 7 frames, not 8 as in x"):
        skipping.distances(x, y[:, 1:])
    with pytest.raises(ValueError, match="clips: got clips with 1 frames, of which the first 1"):
        Calculator("srvp:digits:frame+skip=1").features(clips[0][:, 0])


def test_only_clips_made_under_a_named_protocol_are_marked_with_it(digits, clips):
    (marked,) = Calculator("srvp:digits:dynamics").statistics([clips[0][:3]]).values()
    unmarked = digits.statistics([clips[0][:3]])["dynamics"]
    of_protocol = {
        "protocol": "srvp:digits:dynamics",
        "ddof": "1",
        "frames": "6",
        "resize": "none",
    }
    assert dict(marked.source) == dict(unmarked.source) | of_protocol


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"protocol": "fvd"}, "protocol: got 'fvd', allowed are tensorflow, fvd2048_16f"),
        ({"protocol": "digits", "distance": "mmd"}, "distance: got 'mmd', allowed are frechet, "),
        (
            {"protocol": dataclasses.replace(PROTOCOLS["srvp:digits:frame"], output="logits")},
            "output: got 'logits' of 'digits', allowed are frame, static_content, dynamics",
        ),
    ],
)
def test_wrong_calculators_are_told(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Calculator(**arguments)


def test_an_unknown_output_is_told(digits):
    with pytest.raises(ValueError, match="output: got 'logits', allowed are frame, static_content"):
        digits.only("frame", "logits")


FRAMES = np.zeros((4, 64, 64, 1), np.uint8)
CLIPS = np.zeros((4, 6, 64, 64, 1), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": FRAMES[:1]}, "x: got 1 samples, a distance needs at least 2"),
        ({"y": FRAMES[:0]}, "y: got 0 samples"),
        ({"x": CLIPS}, "y: got clips with 1 frames, not 6 as in x"),
        (
            {"y": FRAMES.repeat(2, -1)},
            r"y: got shape \(4, 64, 64, 2\), expected \[N, H, W, C\], .* 1",
        ),
        (
            {"comparison_type": "dynamics"},
            r"x: got shape .*, expected \[N, T, H, W, C\] or \[N, T,",
        ),
        ({"comparison_type": "motion"}, "comparison_type: got 'motion', allowed are frame, stat"),
        ({"dataset": "mnist"}, "dataset: got 'mnist', allowed are mmnist_stochastic, mmnist_det"),
        ({"dataset": "i3d"}, "dataset: got 'i3d', allowed are mmnist_stochastic, .* own$"),
        ({"method": "schur"}, "method: got 'schur', allowed are procrustes, eigh"),
        ({"batch_size": 0}, "batch_size: got 0, expected at least 1"),
        (
            {"x": CLIPS[:, :4], "y": CLIPS[:, :4], "comparison_type": "dynamics"},
            "x: got clips with 4 frames, but 'dynamics' of the network 'digits' needs at least 5",
        ),
        (
            {"x": CLIPS, "y": CLIPS[:, :5], "comparison_type": "static_content"},
            "y: got clips with 5 frames, not 6 as in x",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*leave the covariance")
@pytest.mark.usefixtures("without_type_checks")
def test_wrong_use_is_told(arguments: dict[str, Any], message: str):
    defaults = {"x": FRAMES, "y": FRAMES, "dataset": "digits"}
    with pytest.raises(ValueError, match=message):
        srvp_fd_jax.frechet_distance(**(defaults | arguments))


@pytest.mark.parametrize(
    ("f1", "f2", "message"),
    [
        (np.zeros(3), np.zeros((3, 2)), r"f1: got shape \(3,\), expected \[N, d\]"),
        (np.zeros((3, 2)), np.zeros((3, 4)), "f2: got 4 feature dimensions, expected 2 as in f1"),
        (np.zeros((3, 2)), np.full((3, 2), np.inf), "f2: got values that are not finite"),
        (np.zeros((3, 2), int), np.zeros((3, 2)), "f1: got dtype int64, expected floats"),
        (np.zeros((3, 2)), np.zeros((1, 2)), "f2: got 1 samples"),
    ],
)
def test_wrong_features_are_told(f1, f2, message, digits):
    with pytest.raises(ValueError, match=message):
        digits.calculate_frechet_distance_from_features(f1, f2)


def test_a_calculator_shows_what_it_computes(digits):
    assert repr(digits) == "FrechetDistanceCalculator(digits: frame, static_content, dynamics)"
    assert repr(digits.only("frame")) == "FrechetDistanceCalculator(digits: frame)"
