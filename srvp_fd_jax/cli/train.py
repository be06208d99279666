"""Train an SRVP model on videos, whose features then score such videos.

Examples:
  srvp-fd-jax train videos/ -o model.safetensors
  srvp-fd-jax train videos/ -o model.safetensors --minutes 60 --nf 32
  srvp-fd-jax train videos/ -o model.safetensors --resume
"""

import dataclasses
from argparse import Namespace
from typing import TYPE_CHECKING, Any, get_args

import jax

from srvp_fd_jax.cli import _options
from srvp_fd_jax.cli._output import log, print_json
from srvp_fd_jax.cli._progress import progress
from srvp_fd_jax.files.atomic import printable
from srvp_fd_jax.networks.srvp import OWN
from srvp_fd_jax.training.model import SRVPModelArchitecture
from srvp_fd_jax.training.recipes import RECIPES, Recipe, change

if TYPE_CHECKING:
    from srvp_fd_jax.training.trainer import Moment, Trained

_CHANGES = {
    field.name: get_args(field.type) or field.type
    for cls in (SRVPModelArchitecture, Recipe)
    for field in dataclasses.fields(cls)
    if field.name not in ("nx", "preset", "architecture")
}


def add_options(command: Any) -> None:
    """Adds the options of the command."""
    command.add_argument(
        "videos", type=_options.name, metavar="VIDEOS", help=f"videos: {_options.DATA}"
    )
    _options.add_output(
        command,
        "file to write, *.safetensors; a folder *.run beside it has checkpoints and metrics",
    )
    command.add_argument(
        "--recipe",
        choices=RECIPES,
        help=f"how the model is trained (default: {OWN}, which fits its --batch-size, --nf and "
        "validations to the videos, the device and the time)",
    )
    command.add_argument(
        "--steps",
        type=_options.whole(1),
        metavar="N",
        help=f"number of steps (default: the recipe's; {OWN} takes fewer on a CPU)",
    )
    command.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="time of the whole run in minutes, with that before an interruption",
    )
    command.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint of the run"
    )
    _options.add(command, "--distributed")
    _options.add_fields(
        command.add_argument_group("changes to the recipe", "By default those of the recipe."),
        _CHANGES,
        SRVPModelArchitecture,
        Recipe,
    )


def run(args: Namespace) -> None:
    """Runs the command."""
    from srvp_fd_jax.training import trainer  # needs the extra "train"

    _options.start_distributed(args)
    changes = {name: value for name in _CHANGES if (value := getattr(args, name)) is not None}
    is_fitted = args.recipe in (None, OWN)
    with progress() as show:
        made = trainer.train(
            args.videos,
            args.output,
            changes if is_fitted else change(RECIPES[args.recipe], **changes),
            steps=args.steps,
            minutes=args.minutes,
            resume=args.resume,
            on_survey=lambda done, total: show("videos", done, total),
            on_fitted=_log_first,
            on_progress=lambda moment: show("train", int(100 * moment.share), 100, _text(moment)),
        )
    if jax.process_index() > 0:
        return
    if args.json:
        print_json(**made._asdict() | {"output": args.output, "run": str(made.run)})
    _log_trained(made)
    if not args.json:
        print(printable(str(made.output)))


def _text(moment: "Moment") -> str:
    parts = [f"{moment.share:.0%}", f"step {moment.step}"]
    parts += [f"{name} {value:.5g}" for name, value in moment.terms.items()]
    parts += [] if moment.psnr is None else [f"PSNR {moment.psnr:.2f} dB"]
    parts += [] if moment.seconds_left is None else [f"{_duration(moment.seconds_left)} left"]
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _log_first(text: str) -> None:
    if jax.process_index() == 0:
        log(text)


def _log_trained(made: "Trained") -> None:
    """Prints how good a model is, and how to go on with it."""
    clips = f"{made.clips} held-out clip" + ("s" if made.clips > 1 else "")
    others = ", ".join(f"{name} {psnr:.2f} dB" for name, psnr in made.baselines.items())
    log(f"{made.step} steps; PSNR on {clips}: the model {made.psnr:.2f} dB, {others}")
    if made.is_better:
        command = f"srvp-fd-jax compute REAL GENERATED --dataset {OWN} --weights {made.output}"
        log(f"to score videos: {command}")
    else:
        worse = " and ".join(n for n, psnr in made.baselines.items() if made.psnr <= psnr)
        log(
            f"warning: the model predicts no better than {worse}, so do not score with it: train "
            "longer (--resume with more --minutes or --steps) or on more videos"
        )
