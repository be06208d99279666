"""The progress of a command: a bar on a terminal, else a line every 30 seconds."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from tqdm import tqdm

from srvp_fd_jax.cli._output import log

_SECONDS_PER_LINE = 30
_BAR = "{desc}: {percentage:3.0f}%|{bar:20}| {elapsed}{postfix}"


@contextlib.contextmanager
def progress(unit: str = "videos") -> Iterator[Callable[..., None]]:
    """Shows progress on standard error while its block runs.

    Yields:
        Function of a title, how much is done, the total, and by default the text
        "DONE of TOTAL UNIT".
    """
    bars: dict[str, Any] = {}
    begun: dict[str, float] = {}
    last = 0.0

    def show(title: str, done: int, total: int, text: str = "") -> None:
        nonlocal last
        done, now = min(done, total), time.monotonic()
        text = text or f"{done} of {total} {unit}"
        if title not in begun:
            begun[title] = last = now
        if sys.stderr.isatty():
            if title not in bars:
                bars[title] = tqdm(total=total, desc=title, bar_format=_BAR)
            bars[title].set_postfix_str(text, refresh=False)
            bars[title].update(done - bars[title].n)
            if done == total:  # the next message begins on a new line
                bars[title].close()
        elif now - last >= _SECONDS_PER_LINE and jax.process_index() == 0:
            last = now
            log(f"{title}, {now - begun[title]:.0f} s: {text}")

    try:
        yield show
    finally:
        for bar in bars.values():
            bar.close()
