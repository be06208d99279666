"""Options that commands share, and what they stand for."""

import argparse
import inspect
import re
from argparse import Namespace
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, get_args

import jax

from srvp_fd_jax.evaluate import DEFAULT
from srvp_fd_jax.networks.kernels.convolution import Precision
from srvp_fd_jax.networks.srvp import COMPARISON_TYPES, DATASETS
from srvp_fd_jax.protocols import OVERRIDES, Protocol, Sampling, find_protocol

DATA = (
    "a folder, .zip, .tar or .tar.gz of video files, folders of frames or arrays, a .npy or .npz "
    "file of clips, or a .txt file that lists paths"
)
"""The forms of a set of videos."""


def name(text: str) -> str:
    """The type of a name or path."""
    # An empty shell variable would otherwise mean the current folder, or a default.
    if not text.strip():
        raise argparse.ArgumentTypeError("got an empty name")
    return text


def whole(minimum: int) -> Callable[[str], int]:
    """The type of a whole number."""

    def parse(text: str) -> int:
        number = int(text) if text.isdecimal() and len(text) < 10 else -1
        if number < minimum:
            expected = f"expected a whole number of at least {minimum}"
            raise argparse.ArgumentTypeError(f"got {text!r}, {expected}")
        return number

    return parse


def _grouping(text: str) -> Callable[[str], str]:
    """The type of a function that labels a name by the first match of a regular expression."""
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"got {text!r}: {error}") from error

    def label(name: str) -> str:
        found = pattern.search(name)
        if found is None or found[pattern.groups > 0] is None:
            raise ValueError(f"group_by: got {text!r}, which does not match {name}")
        return found[pattern.groups > 0]

    return label


_SHARED: dict[str, str | dict[str, Any]] = {
    "--distributed": "run as one of many processes (jax.distributed.initialize) that share the "
    "videos",
    "--no-cache": "neither read nor write cached statistics",
    "--significance": "also compute the null distribution of the distance, by a permutation test",
    "--paired": "the i-th video of GENERATED is a prediction of the i-th video of REAL; videos in "
    "files of the same name are paired in any case",
    "--group-by": {
        "type": _grouping,
        "metavar": "REGEX",
        "help": "videos whose names have the same match, or first group of it, depend on each "
        "other, such as clips of one recording (for the p-value); names are below the folder",
    },
}
_EVALUATION: dict[str, str | dict[str, Any]] = {
    "--protocol": {
        "type": name,
        "metavar": "NAME[,NAME...]",
        "help": "protocols, computed together; `srvp-fd-jax protocols` lists them (default: that "
        f"of given statistics, else {DEFAULT})",
    },
    "--dataset": {
        "choices": DATASETS,
        "help": "dataset of an SRVP protocol, instead of --protocol (default with "
        f"--comparison-type: {DATASETS[0]})",
    },
    "--comparison-type": {
        "choices": COMPARISON_TYPES,
        "help": "features that an SRVP protocol compares (default: frame)",
    },
    "--weights": {
        "type": name,
        "help": "weights of the network: a converted file, a checkpoint folder or a state dict "
        "(default: the bundled, cached or downloaded ones)",
    },
    "--precision": {
        "choices": get_args(Precision),
        "default": "float32",
        "help": "precision of the convolutions (default: float32)",
    },
    "--match": {
        "type": name,
        "metavar": "GLOB",
        "action": "append",
        "help": "take the files whose names, or paths below the folder, match GLOB, such as "
        "'*_gt.mp4' or 'test/*'; given twice, the first is for REAL, the second for GENERATED",
    },
    "--strict": "stop at an unreadable video instead of skipping it",
}


def add(command: Any, *names: str) -> None:
    """Adds shared options by their names: flags, of which there is only the help, and others."""
    for name in names:
        option = (_SHARED | _EVALUATION)[name]
        flag = {"action": "store_true", "help": option}
        command.add_argument(name, **(flag if isinstance(option, str) else option))


def add_evaluation(command: Any) -> None:
    """Adds the protocols, and how videos are found and read."""
    add(command, *_EVALUATION)
    text = "By default those of the protocol. All but the seed become part of its name."
    changes = command.add_argument_group("changes to the protocol", text)
    add_fields(changes, OVERRIDES, Sampling, Protocol)


def add_sets(command: Any, real: str) -> None:
    """Adds the real and the generated set."""
    command.add_argument("real", type=name, metavar="REAL", help=real)
    generated = "generated videos, in the same forms as REAL"
    command.add_argument("fake", type=name, metavar="GENERATED", help=generated)


def add_output(command: Any, text: str) -> None:
    """Adds the path to write to."""
    command.add_argument("-o", "--output", type=name, required=True, help=text)


def add_fields(command: Any, kinds: Mapping[str, type | Collection[str]], *classes: type) -> None:
    """Adds an option for each of some fields of dataclasses, without a default.

    Args:
        command: Parser, or group of it, that takes the options.
        kinds: Types or allowed values by the names of the fields.
        classes: Dataclasses that describe these fields in their docstrings.
    """
    texts = {name: text for cls in classes for name, text in _attributes(cls).items()}
    for name, kind in kinds.items():
        option: dict[str, Any] = {"type": kind} if isinstance(kind, type) else {"choices": kind}
        if kind is bool:
            option = {"action": argparse.BooleanOptionalAction}
        command.add_argument(f"--{name.replace('_', '-')}", help=texts[name], **option)


def _attributes(cls: type) -> dict[str, str]:
    """The first clauses of what the docstrings of a class and its bases say about its fields."""
    texts = {}
    for base in cls.__mro__[-2::-1]:
        section = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2]
        for name, text in re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", section, re.MULTILINE):
            clause = re.split(r"[;.](?:\s|$)", text)[0]
            texts[name] = clause[0].lower() + " ".join(clause[1:].split()).replace("%", "%%")
    return texts


def start_distributed(args: Namespace) -> None:
    """Joins the other processes if there are any."""
    if args.distributed:
        if getattr(args, "no_cache", False):
            raise ValueError("no_cache: the processes of --distributed share the work in the cache")
        jax.distributed.initialize()


def find_cache(args: Namespace) -> Path | None:
    """The folder of statistics; None if the command uses none."""
    return None if args.no_cache or not args.cache else args.cache / "statistics"


def find_glob(args: Namespace) -> str | None:
    """The glob of a command that takes one set."""
    if args.match and len(args.match) > 1:
        raise ValueError(f"match: got {len(args.match)} globs, expected one")
    return args.match[0] if args.match else None


def find_overrides(args: Namespace) -> dict[str, Any]:
    """The changes to the protocol; None for what does not change."""
    return {name: getattr(args, name) for name in OVERRIDES}


def find_named(args: Namespace) -> list[Protocol]:
    """The protocols that the options name; empty if they name none."""
    if args.protocol and (args.dataset or args.comparison_type):
        raise ValueError("protocol: not allowed with --dataset or --comparison-type")
    names = args.protocol.split(",") if args.protocol else []
    if args.dataset or args.comparison_type:
        names = [f"srvp:{args.dataset or DATASETS[0]}:{args.comparison_type or 'frame'}"]
    found = [find_protocol(name, **find_overrides(args)) for name in names]
    return list({protocol.name: protocol for protocol in found}.values())


def find_protocols(args: Namespace) -> list[Protocol]:
    """The protocols that the options name, by default one."""
    return find_named(args) or [find_protocol(DEFAULT, **find_overrides(args))]
