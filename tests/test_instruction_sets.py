import os
import subprocess
import sys

from processes import WITHOUT_AVX512


def test_processes_compute_without_avx512():
    code = """
        import jax
        import numpy
        import torch
        from threadpoolctl import threadpool_info

        (blas,) = (i for i in threadpool_info() if i["prefix"] == "libscipy_openblas")
        print(blas["architecture"], torch.backends.cpu.get_cpu_capability())
        print(jax.numpy.ones(2) + 1)
    """
    told = subprocess.run(
        [sys.executable, "-c", "\n".join(map(str.strip, code.splitlines()))],
        env=os.environ | WITHOUT_AVX512,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    ).stdout
    assert told.split("\n")[0] == "Haswell AVX2"
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw1":
        assert all(value in os.environ[name] for name, value in WITHOUT_AVX512.items())
