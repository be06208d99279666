"""Show or clear the cache of weights, statistics and compiled programs.

Examples:
  srvp-fd-jax cache
  srvp-fd-jax cache --clear
"""

import json
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from srvp_fd_jax.cli._output import log
from srvp_fd_jax.files.atomic import cache_folder, printable, size_of, trim

_MAX_BYTES = 2 << 30  # for statistics and compiled programs; weights are not limited


def add_options(command: Any) -> None:
    """Adds the options of the command."""
    command.add_argument("--clear", action="store_true", help="remove all files in the cache")


def run(args: Namespace) -> None:
    """Runs the command."""
    folder = cache_folder()
    kinds = _files(folder)
    sizes = {kind: {"files": len(paths), "bytes": size_of(paths)} for kind, paths in kinds.items()}
    if args.clear:
        for path in (path for paths in kinds.values() for path in paths):
            path.unlink(missing_ok=True)
    if args.json:
        print(json.dumps({"folder": str(folder), "cleared": args.clear, **sizes}))
        return
    print(printable(str(folder)) + (", cleared of:" if args.clear else ""))
    for kind, size in sizes.items():
        print(f"{kind:12}{size['files']:>6} files{size['bytes'] / 2**20:>10.1f} MiB")


def find_cache() -> Path | None:
    """The folder of the cache, or None with a warning if the folder cannot be written."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        files = _files(folder)
        trim(files["statistics"] + files["programs"], _MAX_BYTES)
        return folder
    except OSError as error:
        log(f"warning: no cache (XDG_CACHE_HOME): {error}")
        return None


def _files(folder: Path) -> dict[str, list[Path]]:
    """Files in the cache by kind."""
    patterns = {"weights": "*.safetensors", "statistics": "statistics/*", "programs": "xla/**/*"}
    return {
        kind: sorted(path for path in folder.glob(pattern) if path.is_file())
        for kind, pattern in patterns.items()
    }
