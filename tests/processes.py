"""Processes of JAX on this machine."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence

UNFUSED = "--xla_cpu_use_fusion_emitters=false"
WITHOUT_AVX512 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
}
"""What lets PyTorch, NumPy and XLA compute as on a processor without AVX-512."""


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def together(
    commands: Sequence[Sequence[str | os.PathLike[str]]], environments: Sequence[Mapping[str, str]]
) -> list[str]:
    """Runs commands at the same time and returns what each prints. None outlives the call.

    One that ends early leaves the others to wait for it.
    """
    started: list[subprocess.Popen[str]] = []
    try:
        for command, environment in zip(commands, environments, strict=True):
            started.append(
                subprocess.Popen(
                    command,
                    env=os.environ | environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
            )
        outputs = [process.communicate(timeout=250) for process in started]
        for process, (_, error) in zip(started, outputs, strict=True):
            assert process.returncode == 0, error[-3000:]
        return [output for output, _ in outputs]
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
