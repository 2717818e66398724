"""The lines of a batch, one request each, and those of its results: OpenAI's JSON Lines.

Source: https://platform.openai.com/docs/guides/batch
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from llm_serving.errors import InvalidRequest

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/score",
    "/v1/classify",
)
MAX_LINES = 50_000
MAX_LINE_BYTES = 20 << 20
MAX_CUSTOM_ID = 512
MAX_PROBLEMS = 100  # told of one file


class BatchLine(NamedTuple):
    """One request. `number` counts from 1."""

    number: int
    custom_id: str
    endpoint: str
    body: dict[str, Any]


class LineProblem(NamedTuple):
    """What is wrong with a line; `param` is the field, `line` its number, None for the whole file."""

    message: str
    line: int | None = None
    param: str | None = None
    code: str = "invalid_value"


def lines_of(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Numbers of lines that are not blank, and these without their end; of one too long the beginning."""
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 2):
        number += 1
        rest = raw
        while len(rest) >= MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES)
        if raw.strip():
            yield number, raw.rstrip(b"\r\n")


def parse_line(number: int, raw: bytes, endpoint: str | None = None) -> BatchLine:
    """`endpoint`: the only one that may be asked; None allows all of `ENDPOINTS`.

    Raises: InvalidRequest that names the field.
    """
    if len(raw) > MAX_LINE_BYTES:
        raise InvalidRequest(f"The line is longer than {MAX_LINE_BYTES} bytes.")
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The line is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidRequest("The line must be a JSON object with custom_id, method, url and body.")
    custom_id, url, body = data.get("custom_id"), data.get("url"), data.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID:
        raise InvalidRequest(f"'custom_id' must be a string of 1 to {MAX_CUSTOM_ID} characters.", "custom_id")
    if data.get("method") != "POST":
        raise InvalidRequest("'method' must be POST.", "method")
    path = url if str(url).startswith("/v1/") else f"/v1{url}"
    if not isinstance(path, str) or path not in ((endpoint,) if endpoint else ENDPOINTS):
        raise InvalidRequest(f"'url' must be {endpoint or ', '.join(ENDPOINTS)}.", "url")
    if not isinstance(body, dict):
        raise InvalidRequest("'body' must be an object, the body of the request.", "body")
    for field in ("stream", "background"):
        if body.get(field):
            raise InvalidRequest(f"'body.{field}' is not for batches: leave it out.", f"body.{field}")
    return BatchLine(number, custom_id, path, body)


def check_lines(path: Path, endpoint: str | None = None) -> tuple[int, list[LineProblem]]:
    """How many requests a file has, and what is wrong with it; reads it once, a line at a time."""
    problems: list[LineProblem] = []
    seen: set[str] = set()
    count = 0
    with path.open("rb") as file:
        for number, raw in lines_of(file):
            count += 1
            try:
                line = parse_line(number, raw, endpoint)
            except InvalidRequest as error:
                problems.append(LineProblem(str(error), number, error.param))
            else:
                if line.custom_id in seen:
                    message = f"'custom_id' is that of another line: {line.custom_id[:64]}"
                    problems.append(LineProblem(message, number, "custom_id", "duplicate_custom_id"))
                seen.add(line.custom_id)
            if count > MAX_LINES:
                return count, [LineProblem(f"There are more than {MAX_LINES} lines.", code="too_many_tasks")]
            if len(problems) >= MAX_PROBLEMS:
                break
    if not count:
        problems.append(LineProblem("There is no request in this file.", code="empty_file"))
    return count, problems


class LineResult(NamedTuple):
    """What a request came to: an answer, whatever its status, or the reason why there is none."""

    custom_id: str
    status: int
    request_id: str = ""
    body: bytes = b""  # JSON
    code: str | None = None
    message: str = ""

    @property
    def is_good(self) -> bool:
        return self.status == 200

    def to_line(self) -> bytes:
        """With its end."""
        response: dict[str, Any] | None = None
        if self.status:
            body = orjson.Fragment(self.body)
            response = {"status_code": self.status, "request_id": self.request_id, "body": body}
        error = {"code": self.code, "message": self.message} if self.code else None
        told = {"id": f"batch_req_{os.urandom(16).hex()}", "custom_id": self.custom_id}
        return orjson.dumps({**told, "response": response, "error": error}) + b"\n"


def answered_ids(path: Path) -> set[str]:
    """Whose results a file of results holds. A last line that was cut off is removed.

    Raises: InvalidRequest, and nothing is changed, if the file holds something else.
    """
    found: set[str] = set()
    if not path.exists():
        return found
    with path.open("rb+") as file:
        good = 0
        for raw in file:
            if not raw.endswith(b"\n"):
                file.truncate(good)
                break
            try:
                found.add(orjson.loads(raw)["custom_id"])
            except (ValueError, KeyError, TypeError):
                raise InvalidRequest(f"'{path}' holds something else than results of a batch.") from None
            good += len(raw)
    return found
