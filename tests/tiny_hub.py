"""A Hugging Face hub on a socket: the few routes by which its library lists and fetches files."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from patience import PATIENCE_S

COMMIT = "c0ffee" + "0" * 34


@dataclass
class TinyHub:
    """`repositories` maps owner/model to files; `fetched` has every file that was sent.

    Of files in `held` only the first half is sent until `release` is set.
    """

    repositories: Mapping[str, Mapping[str, bytes]]
    url: str = ""
    fetched: list[str] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    release: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serve_hub(repositories: Mapping[str, Mapping[str, bytes]]) -> Iterator[TinyHub]:
    hub = TinyHub(repositories)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, hub))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        hub.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, hub: TinyHub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.split("?")[0]).strip("/").split("/")
        if path[:2] == ["api", "models"]:
            self._send(*self._described("/".join(path[2:4]), path[4:]))
        else:
            self._send(*self._file("/".join(path[:2]), "/".join(path[4:])))  # between: "resolve", a revision

    def _described(self, name: str, rest: list[str]) -> tuple[int, bytes, dict[str, str]]:
        files = self.hub.repositories.get(name)
        if files is None:
            return 404, b"{}", {"X-Error-Code": "RepoNotFound"}
        if rest[:1] == ["revision"] and rest[1] not in ("main", COMMIT):
            return 404, b"{}", {"X-Error-Code": "RevisionNotFound"}
        if rest[:1] == ["tree"]:
            listing = [
                {"type": "file", "path": file, "size": len(content), "oid": sha1(content).hexdigest()}
                for file, content in files.items()
            ]
            return 200, json.dumps(listing).encode(), {}
        siblings = [{"rfilename": file} for file in files]
        return 200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode(), {}

    def _file(self, name: str, file: str) -> tuple[int, bytes, dict[str, str]]:
        content = self.hub.repositories.get(name, {}).get(file)
        if content is None:
            return 404, b"", {"X-Error-Code": "EntryNotFound"}
        if self.command == "GET":
            self.hub.fetched.append(file)
        return 200, content, {"ETag": f'"{sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "GET":
            return
        half = len(content) // 2 if self.path.rpartition("/")[2] in self.hub.held else 0
        with suppress(OSError):  # whoever asked may have gone
            self.wfile.write(content[:half])
            if half:
                self.hub.release.wait(PATIENCE_S)
            self.wfile.write(content[half:])

    def log_message(self, *_args: object) -> None:
        pass
