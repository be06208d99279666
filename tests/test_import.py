import subprocess
import sys

HEAVY = {"torch", "scipy", "av", "cv2", "PIL", "imageio", "matplotlib", "tensorflow"}


def test_import_brings_no_heavy_library_and_touches_no_device():
    code = (
        "import srvp_fd_jax.cli, sys; from jax._src import xla_bridge; "
        "print(xla_bridge.backends_are_initialized(), *{m.split('.')[0] for m in sys.modules})"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
    touches, *modules = printed.stdout.split()
    assert touches == "False"
    assert not HEAVY & set(modules)
