"""What a check is, and what comes of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from llm_serving.cli.conformance.server import Server

Status = Literal["passed", "failed", "skipped", "info"]


class Failed(Exception):
    """Seen is not what was expected; the message says what was seen."""


class Skipped(Exception):
    """Nothing can be said: no such route, or a model that cannot; the message says which."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question to a server. `run` returns a remark, which may be empty.

    `run` raises Failed or Skipped; whatever else it raises about the shape of an answer is a failure, too.
    An `is_info` check tells something and is not part of the score.
    """

    name: str
    expected: str  # one sentence
    source: str  # what says so: documentation, or a complaint that is known
    run: Callable[[Server], Awaitable[str]]
    is_info: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one check found. `sent` is its last request, `seen` what was wrong, missing, or worth a remark."""

    group: str
    name: str
    expected: str
    source: str
    status: Status
    seen: str
    sent: str
    seconds: float


def expect(holds: object, seen: str) -> None:
    """Raises: Failed (`seen`) unless it holds."""
    if not holds:
        raise Failed(seen)


def valid(text: str) -> str:
    """Half characters, which JSON can bring and no terminal or file takes, become `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")


def short(value: object, limit: int = 300) -> str:
    """The value's text, in one line of at most `limit` characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text)} characters)"
