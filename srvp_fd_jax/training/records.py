"""What a run writes down while it trains: a table, TensorBoard's events and pictures."""

import contextlib
import csv
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from srvp_fd_jax.files.atomic import write_atomically
from srvp_fd_jax.files.inputs import missing_extra
from srvp_fd_jax.training.validation import Validation

TABLE, EVENTS, PICTURES = "metrics.csv", "tensorboard", "samples"
"""Names of the table, the folder of TensorBoard's events and the folder of pictures of a run."""

TERMS = ("loss", "reconstruction", "kl_y", "kl_z", "residuals")
"""The loss and its terms, see `objective.Objective`."""

FOUND = ("psnr", "frame", "static_content", "dynamics")
"""What a validation finds, see `validation.Validation`."""

COLUMNS = ("step", "seconds", "learning_rate", *TERMS, *FOUND)
"""Columns of the table."""

Write = Callable[[Mapping[str, int | float]], None]

_CLIPS, _GAP = 4, 2

_Clips = UInt8[np.ndarray, "n t h w c"]


@contextlib.contextmanager
def records(run: Path, done: int) -> Iterator[Write]:
    """Opens the table and TensorBoard's events of a run.

    What was written after the first `done` steps is dropped, since the run repeats it.

    Args:
        run: Folder of the run.
        done: Number of steps that the run has done.

    Yields:
        A function that writes one row, given as values by the names of `COLUMNS`. A missing value
        leaves its cell empty.
    """
    writer = _import_writer()
    if jax.process_index() > 0:
        yield lambda row: None
        return
    table = run / TABLE
    rows: list[dict[str, Any]] = []
    if done and table.exists():
        with table.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) <= done]
    write_atomically(table, _lines([dict(zip(COLUMNS, COLUMNS, strict=True)), *rows]).encode())
    with (
        table.open("a", newline="") as file,
        writer(str(run / EVENTS), purge_step=done + 1 if done else None) as events,
    ):

        def write(row: Mapping[str, int | float]) -> None:
            file.write(_lines([row]))
            file.flush()
            for name in COLUMNS[1:]:
                if name in row:
                    events.add_scalar(_tag(name), row[name], row["step"])
            events.flush()

        yield write


def save_picture(run: Path, step: int, clips: _Clips, validation: Validation, given: int) -> None:
    """Writes a picture of predictions to the folder of pictures, under the number of the step.

    For each of the first clips, its rows are the frames of the clip, of the prediction closest to
    it, and of another prediction. A white line separates the given frames from those that are
    predicted.

    Args:
        run: Folder of the run.
        step: Number of steps that are done.
        clips: The clips of the validation.
        validation: The predictions.
        given: Number of frames that the model was given.
    """
    from PIL import Image

    rows = [
        _strip(of_clip, given)
        for i in range(min(_CLIPS, len(clips)))
        for of_clip in (clips[i], validation.best[i], validation.first[i])
    ]
    picture = np.concatenate(rows)
    content = io.BytesIO()
    Image.fromarray(picture.repeat(3, -1) if picture.shape[-1] == 1 else picture).save(
        content, "PNG"
    )
    write_atomically(run / PICTURES / f"{step:08}.png", content.getvalue())


def _strip(frames: UInt8[np.ndarray, "t h w c"], given: int) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Frames side by side, with gaps between them."""
    padded = np.pad(frames, ((0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=64)
    padded[given - 1, :, -_GAP:] = 255
    return np.concatenate(list(padded), axis=1)


def _lines(rows: list[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS).writerows(rows)
    return text.getvalue()


def _tag(column: str) -> str:
    """TensorBoard groups its charts by what stands before the slash."""
    if column in TERMS:
        return f"train/{column}"
    return f"validation/{column}" if column in FOUND else f"run/{column}"


def _import_writer() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(missing_extra(error, "training", "train")) from error
    return SummaryWriter
