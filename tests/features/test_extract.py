"""Batches, devices and processes: the same number at any of them."""

import re
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import free_port, together

from srvp_fd_jax import FeatureStatistics, frechet_distance_from_statistics
from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.features import extract
from srvp_fd_jax.features.extract import Batch
from srvp_fd_jax.networks.srvp.modules import gaussian_from_raw

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def clips() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return moving_digits(rng, 304, 5), moving_digits(rng, 280, 5, swapped=2)


@pytest.mark.parametrize("lengths", [[], [0], [3], [5], [5, 5], [2, 0, 9, 1, 4], [23]])
@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("on_device", [False, True])
def test_blocks_hold_each_sample_once_in_order(
    lengths: list[int], most: int, on_device: bool, monkeypatch: pytest.MonkeyPatch
):
    if on_device:  # as if the CPU were a device whose memory NumPy does not reach
        monkeypatch.setattr(extract, "on_host", lambda _: False)
    data = np.arange(sum(lengths) * 2, dtype=np.float32).reshape(-1, 2)
    batches = np.split(data, np.cumsum(lengths)[:-1])
    put = jnp.asarray if on_device else np.asarray
    got = list(extract.blocks((Batch(put(batch)) for batch in batches), 5, most))
    size = 4 if lengths == [3] else 5 * most
    assert all(block.clips.shape == (size, 2) for block, _ in got)
    assert all(isinstance(block.clips, jax.Array) == on_device for block, _ in got)
    np.testing.assert_array_equal(
        np.concatenate([data[:0]] + [block.clips[:count] for block, count in got]), data
    )
    assert all(count == size for _, count in got[:-1])


def test_blocks_stay_within_a_budget_of_memory_and_what_has_arrived():
    def sizes(samples: np.ndarray, batch_size: int) -> list[int]:
        return [len(block.clips) for block, _ in extract.blocks([Batch(samples)], batch_size, 16)]

    mebibyte = np.zeros((20, 2**20), np.uint8)
    assert sizes(mebibyte, 1024) == [32]
    assert sizes(mebibyte, 16) == [64]
    assert sizes(mebibyte, 3) == [48]
    assert sizes(mebibyte.reshape(1, -1), 1) == [3]
    assert sizes(np.zeros((2, 100 * 2**20), np.uint8), 1) == [1, 1]


@pytest.mark.parametrize("comparison_type", ["frame", "static_content", "dynamics"])
def test_streaming_gives_the_one_shot_number(comparison_type, digits, clips):
    x, y = (c[:, 0] for c in clips) if comparison_type == "frame" else clips
    expected = digits(jnp.asarray(x), jnp.asarray(y), comparison_type)
    calculator = digits.only(comparison_type)
    (s2,) = calculator.statistics([jnp.asarray(y)]).values()
    for lengths in ([304], [1, 100, 203], [150, 154]):
        batches = iter(np.split(x, np.cumsum(lengths)[:-1]))
        (s1,) = calculator.statistics(batches, batch_size=7).values()
        assert (int(s1.count), int(s2.count)) == (304, 280)
        got = frechet_distance_from_statistics(s1, s2)
        chex.assert_trees_all_close(got, expected, rtol=2e-6)
    assert dict(s1.source) == {
        "network": "digits",
        "output": comparison_type,
        "precision": "float32",
        "weights_sha256": digits.weights_sha256,
    }


def test_one_pass_makes_the_statistics_of_all_comparisons(digits, clips):
    x = clips[0][:40]
    expected = digits.only("frame").statistics([x.reshape(-1, 64, 64, 1)])
    for name in ("static_content", "dynamics"):
        expected |= digits.only(name).statistics([x])
    streamed = digits.statistics(iter([x[:9], x[9:]]), batch_size=2)
    jitted = jax.jit(lambda digits, x: digits.statistics([x[:9], x[9:]]))(digits, x)
    for got in (streamed, jitted):
        assert got.keys() == expected.keys()
        for name, of_name in expected.items():
            assert got[name].source == of_name.source
            assert int(got[name].count) == int(of_name.count)
            chex.assert_trees_all_close(got[name].mean, of_name.mean, atol=1e-6)
            chex.assert_trees_all_close(
                got[name].covariance(), of_name.covariance(), atol=1e-6, rtol=1e-5
            )
    chex.assert_trees_all_equal(digits.statistics([]), digits.empty())
    chex.assert_trees_all_equal(jax.jit(lambda: digits.statistics([x[:0]]))(), digits.empty())


def test_frames_that_no_output_looks_at_make_batches_no_smaller(digits):
    calculator = digits.only("static_content")
    long = np.zeros((8, 100, 64, 64, 1), np.uint8)

    def batches(function) -> set[str]:
        program = jax.jit(function).lower(long).as_text()
        return set(re.findall(r"convolution.* -> tensor<(\d+)x", program))

    cut = batches(lambda x: calculator.statistics([x[:, -5:]]))
    assert batches(lambda x: calculator.statistics([x])) == cut


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_streaming_compiles_once(convert, digits, clips):
    calculator = digits.only("frame")
    calculator.statistics([convert(clips[0][:50, 0])], batch_size=5)
    lengths = [convert(clips[i][:n, 0]) for i, n in ((0, 33), (1, 8), (1, 150), (0, 1), (0, 7))]
    singles = [convert(frame) for frame in clips[0][:20, :1, :, :, :].astype(np.uint8)]
    with jax.no_tracing():
        calculator.statistics(lengths, batch_size=5)
        calculator.statistics(singles, batch_size=5)


def test_streams_on_a_device_compile_one_small_program_for_a_length(
    digits, clips, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(extract, "on_host", lambda _: False)
    calculator, frames = digits.only("frame"), jnp.asarray(clips[0][:90, 0])
    expected = calculator.statistics([frames], batch_size=7)
    before = extract._scatter._cache_size(), extract._fold_block._cache_size()
    lengths = [5, 11, 5, 1, 1, 1, 11, 5, 50]
    got = calculator.statistics(jnp.split(frames, np.cumsum(lengths)[:-1]), batch_size=7)
    after = extract._scatter._cache_size(), extract._fold_block._cache_size()
    assert (after[0] - before[0], after[1] - before[1]) == (4, 0)
    chex.assert_trees_all_equal(got, expected)


def test_a_generator_may_fill_one_array_again(digits, clips):
    calculator, frames = digits.only("frame"), clips[0][:200, 0]

    def batches(length):
        buffer = np.empty((length, *frames.shape[1:]), frames.dtype)
        for start in range(0, len(frames), length):
            buffer[:] = frames[start : start + length]
            yield buffer

    for batch_size in (2, 50):  # less than the generator gives, and more
        expected = calculator.statistics([frames], batch_size=batch_size)
        for length in (40, 8):
            got = calculator.statistics(batches(length), batch_size=batch_size)
            chex.assert_trees_all_equal(got, expected)


def test_nothing_is_streamed_into_a_traced_function(digits, clips):
    # A constant of a jitted function would be unrolled into it, batch by batch.
    x, y = (c[:200, 0] for c in clips)
    program = jax.jit(lambda y: digits(x, y)).lower(y).as_text()
    assert program.count("stablehlo.convolution") <= 10
    chex.assert_trees_all_close(jax.jit(lambda y: digits(x, y))(y), digits(x, y), rtol=1e-5)


def test_statistics_of_other_outputs_are_not_compared(digits, clips):
    of_clips = digits.statistics([clips[0]])
    w, features = of_clips["static_content"], of_clips["frame"]
    with pytest.raises(ValueError, match="output is 'static_content' of one and 'frame'"):
        frechet_distance_from_statistics(w, features)
    with pytest.raises(ValueError, match="output is 'static_content' of one and 'frame'"):
        digits.distance(w, features)
    other = FeatureStatistics.empty(128, source=(("output", "static_content"),))
    with pytest.raises(ValueError, match="output is 'frame' of one and 'static_content'"):
        features.merge(other)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (
            lambda x: [x, np.float32(x) / 255],
            r"batches\[1\]: got samples \(5, 64, 64, 1\) of float32, expected .* of uint8 as in",
        ),
        (lambda x: [x, x[:, :4]], r"batches\[1\]: got clips with 4 frames, but 'dynamics' of"),
        (
            lambda x: [x, np.concatenate([x, x], axis=1)],
            r"batches\[1\]: got samples \(10, 64, 64, 1\) of uint8, expected \(5, 64",
        ),
        (lambda x: [x, x[:, :, :, :63]], r"batches\[1\]: got frames of 64×63, expected 64×64"),
        (lambda x: [x, x, x[:, 0]], r"batches\[2\]: got shape \(9, 64, 64, 1\)"),
        (lambda x: [np.float32(x)], r"batches\[0\]: got values from 0 to 255"),
    ],
)
def test_wrong_batches_are_told(batches, message: str, digits, clips):
    with pytest.raises(ValueError, match=message):
        digits.only("dynamics").statistics(batches(clips[0][:9]))


@pytest.mark.usefixtures("without_type_checks")
def test_wrong_batch_sizes_are_told(digits, clips):
    calculator, x = digits.only("dynamics"), clips[0][:9]
    with pytest.raises(ValueError, match="batch_size: got 0"):
        calculator.statistics([x], batch_size=0)
    with pytest.raises(ValueError, match=r"batch_size: got 2\.0 of type float, expected an int"):
        calculator.statistics([x], batch_size=2.0)
    assert calculator.statistics([x], batch_size=np.int64(2))["dynamics"].count == 9


def test_four_processes_give_the_number_of_one(digits, clips, tmp_path):
    # 301 and 280 clips: four does not divide both.
    processes, x, y = 4, clips[0][:301], clips[1]
    np.save(tmp_path / "real.npy", x)
    np.save(tmp_path / "generated.npy", y)
    with jax.enable_x64(True):
        parameters = [jnp.float64(digits.extract_q_y_0_params(c)) for c in (x, y)]
        exact = [
            FeatureStatistics.from_features(mean, variances=variance)
            for mean, variance in map(gaussian_from_raw, parameters)
        ]
        expected = float(frechet_distance_from_statistics(*exact))
        # What cancels in the distance: an ulp of it is more than the factors' rounding costs.
        ulp = 2**-23 * float(sum(jnp.trace(s.covariance()) for s in exact))
    command = [sys.executable, EXAMPLES / "multi_process.py", f"127.0.0.1:{free_port()}"]
    files = [tmp_path / "real.npy", tmp_path / "generated.npy"]
    outputs = together(
        [[*command, str(processes), str(process), *files] for process in range(processes)],
        [{"JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo", "OPENBLAS_NUM_THREADS": "1"}] * processes,
    )
    for output in outputs:
        counts, distance = output.strip().splitlines()[-1].split(": ")
        assert counts == "301 real, 280 generated"
        assert float(distance) == pytest.approx(expected, rel=0, abs=ulp)

    # What padding the last round with repeats, as PyTorch's DistributedSampler does, would give.
    padded = np.concatenate([x, x[: -len(x) % processes]])
    assert abs(float(digits(padded, y, "dynamics")) - expected) > 10 * ulp


@pytest.mark.usefixtures("without_type_checks")  # Flax takes apart what the model holds
@pytest.mark.usefixtures("optimised")
def test_training_loop_example_moves_the_generator_towards_its_target(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import training_loop

    evaluated = training_loop.main(steps=10, batch=160)
    assert evaluated[-1] < 0.5 * evaluated[0]
