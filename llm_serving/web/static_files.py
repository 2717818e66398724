"""The playground's files as data: read once; no path of a request reaches the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

PAGE = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}


class StaticFile(NamedTuple):
    """One file: its bytes, its media type, and a strong validator of them in quotes."""

    content: bytes
    media_type: str
    etag: str


@lru_cache(maxsize=1)
def static_files() -> Mapping[str, StaticFile]:
    """All files by name, `PAGE` among them; read at the first call."""
    folder = Path(__file__).with_name("static")
    files = {path.name: _read(path) for path in sorted(folder.iterdir()) if path.suffix in MEDIA_TYPES}
    return MappingProxyType(files)


def _read(path: Path) -> StaticFile:
    content = path.read_bytes()
    return StaticFile(content, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
