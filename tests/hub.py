"""A Hugging Face Hub on the loopback interface, and clients of it in processes of their own.

It serves the files of one folder as the hub serves those of a repository: small ones behind a
relative redirect, model.pt behind a redirect to another host, with its SHA-256 as the ETag. A
client needs a process of its own because huggingface_hub reads its environment when imported.
"""

import contextlib
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

from srvp_fd_jax.networks.srvp.checkpoint import HUB_REPOSITORY

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_RESOLVE = f"/{HUB_REPOSITORY}/resolve/main/"
_SMALL = f"/api/resolve-cache/models/{HUB_REPOSITORY}/{COMMIT}/"
_LARGE = "/cdn/"
_TOKEN = "/token"

Fault = int | Literal["cut", "damaged", "damaged once", "stall", "xet"]


class Hub(ThreadingHTTPServer):
    """The server.

    Attributes:
        folder: The files of the repository.
        requests: The paths asked for, in order.
        faults: What happens to the files of a folder of the repository: an HTTP status in their
            place; "cut" if the connection closes half-way through model.pt; "damaged" if a bit of
            model.pt is not what it was, or "damaged once" in the first answer only; "stall" if no
            answer comes; "xet" if model.pt is in a Xet storage that does not have it.
    """

    daemon_threads = True

    def __init__(self, folder: Path):
        """Listens on a free port."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.requests: list[str] = []
        self.faults: dict[str, Fault] = {}
        self.released = threading.Event()

    @property
    def url(self) -> str:
        """What the client's HF_ENDPOINT has to be."""
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    """Runs a hub in a thread for as long as the block lasts."""
    with Hub(folder) as hub:
        threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            yield hub
        finally:
            hub.released.set()
            hub.shutdown()


def run_client(
    url: str, home: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs Python with the hub at `url`, and its caches in `home`/hf and `home`/srvp-fd-jax."""
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("HF_") and not key.lower().endswith("_proxy")
    }
    caches = {"HF_HOME": str(home / "hf"), "XDG_CACHE_HOME": str(home)}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**inherited, **caches, "HF_ENDPOINT": url, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._send(404)

    def log_message(self, *_: object) -> None:
        """Keeps the tests' output clean."""

    def _answer(self) -> None:
        self.server.requests.append(self.path)
        if self.path == _TOKEN:
            token = {"X-Xet-Access-Token": "-", "X-Xet-Token-Expiration": "9999999999"}
            return self._send(200, {"X-Xet-Cas-Url": self.server.url, **token})
        route = next((route for route in (_RESOLVE, _SMALL, _LARGE) if route in self.path), None)
        path = self.server.folder / self.path.removeprefix(route or "/")
        if route is None or not path.is_file():
            return self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        folder = path.parent.relative_to(self.server.folder).as_posix()
        fault = self.server.faults.get(folder)
        if fault == "stall":
            self.server.released.wait()
        elif isinstance(fault, int):
            self._send(fault)
        elif route == _RESOLVE:
            self._redirect(path, xet=fault == "xet")
        else:
            damaged = route == _LARGE and self.command == "GET" and "damaged" in str(fault)
            self._send_file(path, cut=fault == "cut" and route == _LARGE, damaged=damaged)
            if damaged and fault == "damaged once":
                del self.server.faults[folder]

    def _redirect(self, path: Path, *, xet: bool) -> None:
        name = path.relative_to(self.server.folder).as_posix()
        headers = {"X-Linked-Size": str(path.stat().st_size), "X-Linked-Etag": _etag(path)}
        headers |= {"X-Repo-Commit": COMMIT}
        if path.name != "model.pt":
            return self._send(307, {"Location": _SMALL + name, **headers})
        if xet:
            route = f"{self.server.url}{_TOKEN}"
            headers |= {"X-Xet-Hash": "0" * 64, "X-Xet-Refresh-Route": route}
        host = f"http://localhost:{self.server.server_port}"
        self._send(302, {"Location": host + _LARGE + name, **headers})

    def _send_file(self, path: Path, *, cut: bool, damaged: bool) -> None:
        content = path.read_bytes()
        if damaged:
            content = content[:-200] + bytes([content[-200] ^ 1]) + content[-199:]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        headers = {"ETag": _etag(path), "X-Repo-Commit": COMMIT}
        end = len(content) // 2 if cut else len(content)
        length = len(content) - start
        self._send(206 if start else 200, headers, content[start:end], length=length)
        self.close_connection = self.close_connection or cut

    def _send(
        self,
        status: int,
        headers: dict[str, str] | None = None,
        content: bytes = b"",
        *,
        length: int = 0,
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


def _etag(path: Path) -> str:
    return f'"{hashlib.sha256(path.read_bytes()).hexdigest()}"'
