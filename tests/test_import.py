import ast
import subprocess
import sys
from pathlib import Path

import srvp_fd_jax

HEAVY = {"torch", "scipy", "av", "cv2", "PIL", "imageio", "matplotlib", "tensorflow"}


def test_only_the_command_imports_training():
    root = Path(srvp_fd_jax.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name.name}" for name in node.names]
            else:
                continue
            if any(f"{name}.".startswith("srvp_fd_jax.training.") for name in names):
                found.add(path.relative_to(root).parts[0].removesuffix(".py"))
    assert found == {"cli", "training"}


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
