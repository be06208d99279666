import subprocess
import sys

HEAVY = {"torch", "scipy", "av", "cv2", "PIL", "imageio", "tensorflow"}


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_import_brings_no_heavy_library():
    code = "from srvp_fd_jax import *; import sys; print(*{m.split('.')[0] for m in sys.modules})"
    assert not HEAVY & set(run(code).split())


def test_import_waits_for_what_is_asked_for():
    code = "import srvp_fd_jax, sys; print('jax' in sys.modules, *dir(srvp_fd_jax))"
    assert run(code).startswith("False ")
    assert "frechet_distance" in run(code)
    known = "import srvp_fd_jax as s; print((*s.NETWORKS,) == (*s.DATASETS, 'i3d'))"
    assert run(known) == "True"
    assert run("import srvp_fd_jax as s; print(hasattr(s, 'nothing'))") == "False"


def test_import_touches_no_device():
    code = (
        "import srvp_fd_jax, srvp_fd_jax.cli; from jax._src import xla_bridge; "
        "print(xla_bridge.backends_are_initialized())"
    )
    assert run(code) == "False"


def test_everything_public_is_exported_and_documented():
    code = (
        "import srvp_fd_jax as s; "
        "print(all(getattr(s, name).__doc__ for name in s.__all__), s.__version__)"
    )
    assert run(code).startswith("True ")
