"""Downloads from the Hugging Face Hub, checked against the hub's hashes."""

import re
from pathlib import Path

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HfHubHTTPError

from srvp_fd_jax.files.atomic import file_sha256


class DamagedError(ValueError):
    """Raised for a file that differs from the hub's, also after it was downloaded again."""


def fetch(repository: str, file: str, revision: str) -> Path:
    """Returns the path of a file in the hub's cache; downloads a missing or damaged file.

    Raises:
        DamagedError: If the file is damaged and downloading it again did not help.
        Exception: Any error of httpx (huggingface_hub 1.x), httpx2 (2.x) or hf_xet, which have no
            common base class, if the hub cannot be reached and the file is not in the cache.
    """
    etag = cached = None
    url = hf_hub_url(repository, file, revision=revision)
    try:
        etag = get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT).etag
    except HfHubHTTPError:
        pass  # the client decides which of these errors it retries
    except Exception:  # without an answer, the client would wait half a minute
        cached = try_to_load_from_cache(repository, file, revision=revision)
        if not isinstance(cached, str):
            raise
    path = Path(cached or hf_hub_download(repository, file, revision=revision))
    # The ETag of a large file is its SHA-256, and the cache links to files named by their ETags.
    etags = (etag, path.readlink().name if path.is_symlink() else None)
    expected = next((e for e in etags if e and re.fullmatch("[0-9a-f]{64}", e)), None)
    if expected in (None, file_sha256(path)):
        return path
    try:
        path = Path(hf_hub_download(repository, file, revision=revision, force_download=True))
        if (found := file_sha256(path)) == expected:
            return path
        again = f"downloaded again it has the SHA-256 {found}"
    except Exception as error:
        again = f"it could not be downloaded again ({reason(error)})"
    raise DamagedError(
        f"{path.resolve()} is damaged: on the hub {file} has the SHA-256 {expected}, and {again}; "
        "delete it, and try again where there is a network"
    )


def commit(path: Path) -> str | None:
    """The commit of the repository that a file or folder in the hub's cache belongs to."""
    found = re.search("/snapshots/([0-9a-f]{40})/", path.as_posix())
    return found and found[1]


def reason(error: Exception) -> str:
    """Describes in one line why a download failed: the cause, which the hub's messages omit."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}".partition("\n")[0]
