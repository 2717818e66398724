"""Our handler of log records."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import pytest

from llm_serving.ops.log import configure_logging


class Stream:
    """Keeps every write apart."""

    def __init__(self) -> None:
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return len(text)

    def flush(self) -> None:
        pass


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
    """What is written to stderr by a logger that is set up from nothing, and left so."""
    logger = logging.getLogger("llm_serving")
    before = logger.handlers, logger.level, logger.propagate, logging.getLogger("uvicorn.access").disabled
    flags = logging.logThreads, logging.logProcesses, logging.logMultiprocessing
    stream = Stream()
    monkeypatch.setattr(sys, "stderr", stream)
    logger.handlers = []
    configure_logging("info")
    yield stream
    logger.handlers, logger.level, logger.propagate, logging.getLogger("uvicorn.access").disabled = before
    logging.logThreads, logging.logProcesses, logging.logMultiprocessing = flags


def test_records_that_come_together_are_one_write(logged: Stream) -> None:
    logger = logging.getLogger("llm_serving.some")
    logger.info("one", extra={"has_more": True})
    logger.info("two", extra={"has_more": True})
    assert not logged.writes
    logger.info("three", extra={"has_more": False})
    logger.warning("four")
    assert [text.count("\n") for text in logged.writes] == [3, 1]
    assert [line.split()[-1] for text in logged.writes for line in text.splitlines()] == [
        "one", "two", "three", "four",
    ]  # fmt: skip


def test_a_record_that_cannot_be_written_out_fails_nobody(
    logged: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger = logging.getLogger("llm_serving.some")
    logger.info("%d", "no number", extra={"has_more": True})
    logger.info("after")
    assert len(logged.writes) == 1
    assert logged.writes[0].endswith("after\n")
