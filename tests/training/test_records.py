"""What a run writes down: the table, TensorBoard's events and the pictures."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srvp_fd_jax.training.records import COLUMNS, EVENTS, PICTURES, TABLE, records, save_picture
from srvp_fd_jax.training.validation import Validation


def rows(run: Path) -> list[dict[str, str]]:
    with (run / TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


def write(run: Path, steps: range, done: int = 0) -> None:
    with records(run, done) as add:
        for step in steps:
            add({"step": step, "loss": step / 2, **({"psnr": 20.0} if step % 4 == 0 else {})})


def test_the_table_has_a_row_per_call(tmp_path: Path):
    write(tmp_path, range(1, 5))
    assert list(rows(tmp_path)[0]) == list(COLUMNS)
    assert [(row["step"], row["loss"], row["psnr"]) for row in rows(tmp_path)] == [
        ("1", "0.5", ""),
        ("2", "1.0", ""),
        ("3", "1.5", ""),
        ("4", "2.0", "20.0"),
    ]


def test_a_resumed_run_drops_the_rows_that_it_repeats(tmp_path: Path):
    write(tmp_path, range(1, 9))
    kept = (tmp_path / TABLE).read_bytes()
    write(tmp_path, range(6, 9), done=5)
    assert (tmp_path / TABLE).read_bytes() == kept
    write(tmp_path, range(1, 3))
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2"]


def test_tensorboard_gets_the_same_numbers(tmp_path: Path):
    write(tmp_path, range(1, 5))
    from tensorboardX.proto.event_pb2 import Event

    (events,) = (tmp_path / EVENTS).glob("events*")
    content, scalars, at = events.read_bytes(), {}, 0
    while at < len(content):  # length, checksum, event, checksum
        length = int.from_bytes(content[at : at + 8], "little")
        event = Event.FromString(content[at + 12 : at + 12 + length])
        scalars |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        at += 16 + length
    assert scalars == {("train/loss", s): s / 2 for s in range(1, 5)} | {
        ("validation/psnr", 4): 20.0
    }


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_has_three_rows_per_clip(tmp_path: Path, channels: int):
    shape = (2, 5, 64, 64, channels)
    clips, best, first = (np.full(shape, value, np.uint8) for value in (10, 100, 200))
    save_picture(tmp_path, 30, clips, Validation(20.0, {}, best, first), given=3)
    with Image.open(tmp_path / PICTURES / "00000030.png") as image:
        pixels = np.asarray(image)
    assert pixels.shape == (2 * 3 * 66, 5 * 66, 3)
    assert [pixels[66 * i, 0, 0] for i in range(6)] == [10, 100, 200] * 2
    gaps = [pixels[5, 66 * i + 65, 0] for i in range(5)]
    assert gaps == [64, 64, 255, 64, 64]
