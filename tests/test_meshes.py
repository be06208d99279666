"""Meshes of eight devices: the number of one, and each device at work on its own samples.

JAX has as many devices as it starts with: each test is a process of its own.
"""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import uses


def run(*command: str) -> str:
    environment = {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "PYTHONPATH": str(Path(uses.__file__).parent),
    }
    result = subprocess.run(
        [sys.executable, *command],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_every_use_gives_the_number_of_numpy():
    numbers = json.loads(run(uses.__file__))
    assert len(numbers) == 2 + 8 + 4 * (7 + 4) + 4
    for use, got in numbers.items():
        name, place, *_ = use.split(", ")
        name = name if name in uses.COMPUTATIONS else "call"
        assert got == pytest.approx(uses.expected(name, place), rel=1e-4), use


def test_work_is_divided_and_features_alone_move():
    code = """
        import json
        import re

        import jax
        import jax.numpy as jnp
        import numpy as np
        from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
        from srvp_fd_jax import FrechetDistanceCalculator

        digits = FrechetDistanceCalculator("digits")
        frames = np.zeros((4, 64, 64, 1), np.float32)
        programs = {
            "features": lambda x: digits.extract_features(x),
            "statistics": lambda x: digits.only("frame").statistics([x]),
            "gradient": jax.grad(lambda x: digits(x, frames)),
        }
        told = {}
        for axis_type, n, name in (
            (AxisType.Auto, 1000, "features"),
            (AxisType.Auto, 1000, "statistics"),
            (AxisType.Auto, 1040, "statistics"),
            (AxisType.Auto, 1000, "gradient"),
            (AxisType.Explicit, 1040, "statistics"),
        ):
            mesh = jax.make_mesh((8,), ("a",), axis_types=(axis_type,))
            shape = (n, 64, 64, 1)
            sharding = NamedSharding(mesh, P("a"))
            argument = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
            compiled = jax.jit(programs[name]).lower(argument).compile()
            moved = re.findall(
                r"= (.*?) (?:all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter)"
                r"(?:-start)?\\(",
                compiled.as_text(),
            )
            sizes = [
                int(np.prod([int(k) for k in dims.split(",") if k]))
                for shapes in moved
                for dims in re.findall(r"\\[([0-9,]*)\\]", shapes)
            ]
            flops = compiled.cost_analysis()["flops"]
            told[f"{axis_type.name}, {n}, {name}"] = flops, max(sizes, default=0)
        whole = {}
        for name in ("features", "statistics"):
            one = jax.jit(programs[name]).lower(jax.ShapeDtypeStruct((1000, 64, 64, 1), "f4"))
            whole[name] = one.compile().cost_analysis()["flops"] / 1000
        print(json.dumps([told, whole]))
    """
    told, whole = json.loads(run("-W", "ignore", "-c", textwrap.dedent(code)))
    for use, (flops, largest) in told.items():
        axis_type, n, name = use.split(", ")
        features = 1.2 * int(n) * 128  # with padding; frames have 4,096 pixels
        assert largest <= (0 if name == "features" else features), use
        if axis_type == "Auto" and name in whole:
            assert flops < 1.05 * whole[name] * int(n) / 8, use


@pytest.mark.filterwarnings("ignore:.*leave the covariance")
def test_real_networks_give_the_number_of_one_device(digits, tmp_path):
    from srvp_fd_jax.demo.moving_digits import moving_digits

    rng = np.random.default_rng(0)
    clips = moving_digits(rng, 72, 5), moving_digits(rng, 72, 5, swapped=2)
    np.savez(tmp_path / "clips.npz", *clips)  # of which a device gets 9: three batches of 4
    expected = {name: float(digits(*clips, name)) for name in ("static_content", "dynamics")}
    code = f"""
        import jax
        import numpy as np
        from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
        from srvp_fd_jax import FrechetDistanceCalculator

        digits = FrechetDistanceCalculator("digits")
        clips = list(np.load({str(tmp_path / "clips.npz")!r}).values())
        expected = {expected!r}
        for axis_type, spec, name, jitted in (
            (AxisType.Auto, P(("a", "b")), "static_content", False),
            (AxisType.Auto, P(("a", "b")), "dynamics", True),
            (AxisType.Explicit, P("b"), "dynamics", True),
        ):
            mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(axis_type,) * 2)

            def evaluate(calculator, x, y):
                return calculator(x, y, name, batch_size=4)

            with jax.set_mesh(mesh):
                x, y = (jax.device_put(c, NamedSharding(mesh, spec)) for c in clips)
                got = float((jax.jit(evaluate) if jitted else evaluate)(digits, x, y))
            assert abs(got - expected[name]) <= 1e-5 * got, (axis_type, spec, name, got)

        w = digits.extract_w(x)
        assert w.sharding.is_equivalent_to(NamedSharding(mesh, P("b")), 2), w.sharding
        assert np.abs(np.asarray(w) - digits.extract_w(clips[0])).max() < 1e-6
    """
    run("-W", "ignore", "-c", textwrap.dedent(code))


def test_distances_of_every_state_are_those_of_one_device():
    code = """
        import json

        import jax
        import numpy as np
        from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
        from srvp_fd_jax import DISTANCES, FeatureStatistics

        rng = np.random.default_rng(0)
        x, y = (rng.normal(size=(80, 6)).astype(np.float32) for _ in range(2))
        y = np.float32(1.2) * y + np.float32(0.3)

        def state(distance, f):
            return FeatureStatistics.empty(6, sample=min(distance.size, 80)).update(f)

        def between(distance, s1, s2):
            return distance.between({"x": s1, "y": s2})

        numbers = {}
        for name in "frechet", "jedi", "jedi_unbiased", "kvd", "mind", "density":
            distance = DISTANCES[name]
            of_arrays = lambda x, y: between(distance, state(distance, x), state(distance, y))
            gradient = jax.grad(of_arrays)
            found = of_arrays(x, y), gradient(x, y)
            numbers[name] = {"one device": [float(found[0]), np.ravel(found[1]).tolist()]}
            for kind in (AxisType.Auto, AxisType.Explicit):
                mesh = jax.make_mesh((8,), ("a",), axis_types=(kind,))
                with jax.set_mesh(mesh):
                    sharded = [jax.device_put(f, NamedSharding(mesh, P("a"))) for f in (x, y)]
                    found = jax.jit(of_arrays)(*sharded), jax.jit(gradient)(*sharded)
                numbers[name][f"{kind}"] = [float(found[0]), np.ravel(found[1]).tolist()]
            mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
            reduced = jax.jit(
                jax.shard_map(
                    lambda f: state(distance, f).all_reduce("a"),
                    mesh=mesh, in_specs=P("a"), out_specs=P(),
                )
            )
            numbers[name]["shard_map"] = [float(between(distance, reduced(x), reduced(y))), None]
        print(json.dumps(numbers))
    """
    numbers = json.loads(run("-c", textwrap.dedent(code)))
    assert len(numbers) == 6
    for name, found in numbers.items():
        distance, gradient = found.pop("one device")
        assert len(found) == 3
        for how, (got, of_gradient) in found.items():
            assert got == pytest.approx(distance, rel=1e-5), (name, how)
            if of_gradient is not None:
                np.testing.assert_allclose(of_gradient, gradient, rtol=1e-3, atol=1e-5)


def test_clips_that_are_sharded_over_height_or_width():
    """The number of one device; before, devices waited for each other's borders without end."""
    code = """
        import warnings

        import jax
        import numpy as np
        from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
        from srvp_fd_jax import FrechetDistanceCalculator

        warnings.simplefilter("ignore")  # of few clips
        calculator = FrechetDistanceCalculator("digits").only("frame", "static_content")
        x, y = np.random.default_rng(0).random((2, 16, 5, 64, 64, 1), np.float32)
        for kind, spec, n in (
            (AxisType.Auto, P(None, None, "a"), 16),
            (AxisType.Auto, P("b", None, None, "a"), 16),
            (AxisType.Explicit, P(None, None, "a", "b"), 15),
        ):
            mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(kind,) * 2)
            both = [jax.device_put(clips[:n], NamedSharding(mesh, spec)) for clips in (x, y)]
            expected = calculator.distances(x[:n], y[:n])
            for output, distance in calculator.distances(*both).items():
                np.testing.assert_allclose(distance, expected[output], rtol=1e-5)
    """
    run("-c", textwrap.dedent(code))
