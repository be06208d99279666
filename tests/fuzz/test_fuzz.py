"""The first cases of the fuzzer, which by hand goes through many more."""

import re
import subprocess
import sys

import fuzz


def test_damaged_files_are_read_or_refused():
    command = [sys.executable, fuzz.__file__, "--cases", "2000", "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2000 cases, 0 faults" in done.stdout
    # It is of use only where some files are taken and some are not.
    told = dict(re.findall(r"^(\w+ (?:read|refused)): (\d+)$", done.stdout, re.MULTILINE))
    for kind in fuzz.KINDS:
        assert f"{kind} refused" in told or fuzz.KINDS[kind].read == fuzz.read_videos
        assert f"{kind} read" in told or kind == "i3d"  # whose whole files are too large for this
