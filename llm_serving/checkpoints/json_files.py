"""JSON that is not trusted: bounded in size, an object at the top, no key twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llm_serving.errors import CheckpointError

MAX_CONFIG_BYTES = 1 << 24  # configs are a few kB; tokenizers are not read through here


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """Raises: CheckpointError that begins with `where`."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_distinct)
    except UnicodeDecodeError:
        raise CheckpointError(f"{where} is not valid UTF-8.") from None
    except RecursionError:
        raise CheckpointError(f"{where} nests too deep.") from None
    except ValueError as error:
        raise CheckpointError(f"{where} is no JSON: {str(error)[:120]}.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} is not a JSON object.")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The object in a small JSON file. Raises: CheckpointError."""
    return parse_object(_read(path), f"{path}: the file")


def read_list(path: Path) -> list[Any]:
    """The list in a small JSON file. Raises: CheckpointError."""
    value = parse_object(b'{"":' + _read(path) + b"}", f"{path}: the file").get("")
    if not isinstance(value, list):
        raise CheckpointError(f"{path}: the file is not a JSON list.")
    return value


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}.") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise CheckpointError(f"{path}: has over {MAX_CONFIG_BYTES} bytes, which is no configuration.")
    return data


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:60]!r} stands there twice")
    return out
