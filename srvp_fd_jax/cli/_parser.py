"""The parser of the command."""

import argparse
import re
from typing import NoReturn

import srvp_fd_jax
from srvp_fd_jax.cli import (
    cache,
    compare,
    compute,
    convert,
    demo,
    protocols,
    report,
    severity,
    statistics,
    train,
)
from srvp_fd_jax.files.atomic import printable
from srvp_fd_jax.files.inputs import nearest

COMMANDS = {
    "demo": demo,
    "protocols": protocols,
    "cache": cache,
    "compute": compute,
    "compare": compare,
    "statistics": statistics,
    "report": report,
    "severity": severity,
    "train": train,
    "convert": convert,
}
"""The modules of the commands by their names. Their docstrings are the help."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if choice := re.fullmatch(r".*invalid choice: '(.*?)' \(choose from (.*)\)", message):
            near = nearest(choice[1], re.findall(r"[\w.-]+", choice[2]))
            message += f"; did you mean {near!r}?" if near else ""
        super().error(printable(message))


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of all commands; what it parses has the attribute `run`."""
    parser = _Parser(prog="srvp-fd-jax", description=srvp_fd_jax.__doc__)
    parser.add_argument("--version", action="version", version=srvp_fd_jax.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        text = module.__doc__ or ""
        command = commands.add_parser(
            name,
            help=text.partition("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--json", action="store_true", help="print one line of JSON")
        command.set_defaults(run=module.run)
        module.add_options(command)
    return parser
