"""The command `srvp-fd-jax`: one module for each of its commands, which parses and prints."""

import os
import signal
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence

import jax

from srvp_fd_jax.cli import cache, protocols
from srvp_fd_jax.cli._output import log
from srvp_fd_jax.cli._parser import make_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments of the command; by default those of the process.

    Returns:
        Exit status: 0; 1 after an error, which is printed in one line on standard error; 130 if
        interrupted, 143 if terminated. Wrong usage raises `SystemExit` with status 2.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = make_parser().parse_args(argv)
    try:
        _run(args)
    except KeyboardInterrupt as interrupt:
        (number,) = interrupt.args or (signal.SIGINT,)
        log("interrupted")
        return 128 + number
    except OSError as error:
        named = error.filename and error.strerror
        log(f"error: {error.filename}: {error.strerror}" if named else f"error: {error}")
        return 1
    except (ValueError, ModuleNotFoundError) as error:
        log(f"error: {_as_typed(str(error), argv)}")
        return 1
    return 0


def _run(args: Namespace) -> None:
    # JAX factorises on the CPU with OpenBLAS, whose threads wait for each other in a busy loop. On
    # matrices as small as these they are several times slower than one, and a thousand times on a
    # busy machine.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    args.cache = None if args.run in (cache.run, protocols.run) else cache.find_cache()
    if args.cache and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(args.cache / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: log(f"warning: {message}")
        args.run(args)


def _as_typed(message: str, argv: Sequence[str]) -> str:
    """A message about an argument, under the name of its option if that was given."""
    name, separator, text = message.partition(": ")
    option = f"--{name.replace('_', '-')}"
    is_given = any(word.partition("=")[0] in (option, f"-{name[:1]}") for word in argv)
    return f"{option}{separator}{text}" if is_given else message
