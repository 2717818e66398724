"""Lines of requests and of results: what is read, what is refused, what a torn file still tells."""

from __future__ import annotations

import io
import json
from pathlib import Path

import orjson
import pytest

from llm_serving.errors import InvalidRequest
from llm_serving.service import batch_lines
from llm_serving.service.batch_lines import LineResult, answered_ids, check_lines, lines_of, parse_line

CHAT = "/v1/chat/completions"


def line(**changes: object) -> bytes:
    return json.dumps({"custom_id": "a", "method": "POST", "url": CHAT, "body": {}, **changes}).encode()


def test_blank_lines_count_and_are_skipped() -> None:
    file = io.BytesIO(b"\n" + line() + b"\r\n\n  \n" + line(custom_id="b"))
    assert [(number, json.loads(raw)["custom_id"]) for number, raw in lines_of(file)] == [(2, "a"), (5, "b")]


@pytest.mark.parametrize("excess", [1, 2, 3, 10, 40])
def test_a_line_that_is_too_long_is_one_line(excess: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_lines, "MAX_LINE_BYTES", 20)
    found = list(lines_of(io.BytesIO(b"x" * (20 + excess) + b"\n" + b"y" * 20 + b"\nz")))
    assert [number for number, _ in found] == [1, 2, 3]
    assert found[1:] == [(2, b"y" * 20), (3, b"z")]
    with pytest.raises(InvalidRequest, match="longer than 20 bytes"):
        parse_line(*found[0])


def test_urls_with_and_without_version() -> None:
    assert parse_line(1, line(url="/embeddings")).endpoint == "/v1/embeddings"
    assert parse_line(7, line()).number == 7
    for url in ("/v1/models", "/v1/files", "", 5, None, ["/v1"], "http://x/v1/chat/completions"):
        with pytest.raises(InvalidRequest, match="'url' must be"):
            parse_line(1, line(url=url))
    with pytest.raises(InvalidRequest, match=f"'url' must be {CHAT}"):
        parse_line(1, line(url="/v1/embeddings"), CHAT)


def test_as_many_lines_as_there_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_lines, "MAX_LINES", 3)
    path = tmp_path / "in"
    path.write_bytes(b"\n".join(line(custom_id=str(i)) for i in range(3)))
    assert check_lines(path) == (3, [])
    path.write_bytes(b"\n".join(line(custom_id=str(i)) for i in range(4)))
    _, (problem,) = check_lines(path)
    assert (problem.code, problem.line) == ("too_many_tasks", None)


def test_problems_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"{\n" * 5000)
    _, problems = check_lines(path)
    assert [problem.line for problem in problems] == list(range(1, batch_lines.MAX_PROBLEMS + 1))


def test_results_and_what_is_left_of_them(tmp_path: Path) -> None:
    path = tmp_path / "out"
    assert answered_ids(path) == set()
    whole = (
        LineResult("a", 200, "req", b'{"x": 1}').to_line()
        + LineResult("b", 0, code="c", message="m").to_line()
    )
    assert [(r["response"] is None, r["error"]) for r in map(orjson.loads, whole.splitlines())] == [
        (False, None),
        (True, {"code": "c", "message": "m"}),
    ]
    for torn in (b"", b'{"custom_id": "z"}', b'{"custom'):
        path.write_bytes(whole + torn)
        assert answered_ids(path) == {"a", "b"}
        assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"hello\nworld\n", b"{}\n", b"5\n", b"[1]\nx"])
def test_a_file_of_something_else_is_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(content)
    with pytest.raises(InvalidRequest, match="something else"):
        answered_ids(path)
    assert path.read_bytes() == content
