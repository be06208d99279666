"""Files that appear whole or not at all."""

import os
import secrets
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file under a temporary name beside it and renames it into place.

    A reader sees the old file or the new one, and an interrupted writer leaves the old one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `tempfile`, whose files are private: open() gives the permissions that the umask allows.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
