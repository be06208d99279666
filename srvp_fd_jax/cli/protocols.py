"""List the protocols and their settings.

Examples:
  srvp-fd-jax protocols
"""

import dataclasses
import json
from argparse import Namespace
from typing import Any

from srvp_fd_jax.protocols import PROTOCOLS


def add_options(command: Any) -> None:
    """Adds no options."""


def run(args: Namespace) -> None:
    """Runs the command."""
    if args.json:
        print(json.dumps([dataclasses.asdict(protocol) for protocol in PROTOCOLS.values()]))
        return
    rows = [protocol.described() for protocol in PROTOCOLS.values()]
    columns = [column for column in rows[0] if len({row[column] for row in rows}) > 1]
    for row in [{column: column for column in columns}, *rows]:
        cells = (
            row[column].ljust(max(len(column), *(len(other[column]) for other in rows)))
            for column in columns
        )
        print("  ".join(cells).rstrip())
