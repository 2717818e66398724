"""`conformance`: our own server passes, and each of many defects is found by the check meant for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from broken_server import (
    Breaking,
    Defect,
    always,
    big_endian,
    clamped,
    crowded,
    cut_characters,
    cut_prompt,
    cut_texts,
    drop_null_reason,
    drop_role,
    each_call,
    each_choice,
    is_list,
    lose_delta,
    merge_end,
    never_empty,
    new_ids,
    no_done,
    one_vector,
    spaced,
    usage_with_choice,
    when,
    without,
    without_schema,
    wrong_usage,
)
from fake_server import fake_app, running_server
from tiny_openai_server import Reply, TinyServer

from llm_serving.cli.conformance.run import GROUPS
from llm_serving.cli.program import run

REPLY = "The quick brown fox jumps over 😀 the lazy dog — and sleeps."


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    app = fake_app(behaviour={"reply": REPLY}, api_key=("sesame",), strict_model_names=True)
    app.add_middleware(Breaking)
    with running_server(app) as url:
        yield url


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda defect: monkeypatch.setattr(Breaking, "defect", defect)


def judged(url: str, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any]]:
    """(exit code, report)"""
    code = run(["conformance", url, "--json", "-", *options])
    return code, json.loads(capsys.readouterr().out)


def names(report: dict[str, Any], status: str) -> list[str]:
    return [check["name"] for check in report["checks"] if check["status"] == status]


def test_our_server_passes(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = judged(url, capsys, "--api-key", "sesame")
    assert [check for check in report["checks"] if check["status"] == "failed"] == []
    # The fake model never ends an object by itself, and its tokens are bytes.
    assert set(names(report, "skipped")) <= {"json_object", "logit_bias forbids"}
    assert (code, report["score"], report["failed"]) == (0, 1.0, 0)
    assert report["passed"] > 90
    assert (report["model"], report["embedding_model"]) == ("fake", "fake-embed")
    assert {check["group"] for check in report["checks"]} == set(GROUPS)


DEFECTS = [
    Defect("basics", "usage", answer=when(always, lambda body: {**body, "usage": {"total_tokens": 5}})),
    Defect("stream", "role first", events=each_choice(drop_role)),
    Defect("stream", "same head", events=new_ids),
    Defect("stream", "finish_reason null", events=each_choice(drop_null_reason)),
    Defect("stream", "finishes apart", events=merge_end),
    Defect("stream", "[DONE] last", events=no_done),
    Defect("stream", "usage chunk", events=usage_with_choice),
    Defect("stream", "usage counts", events=wrong_usage),
    Defect("stream", "whole characters", events=each_choice(cut_characters)),
    Defect("stream", "stop hidden", request=without("stop", streamed=True)),
    Defect("limits", "max_completion_tokens", request=without("max_completion_tokens")),
    Defect("limits", "n", request=without("n", streamed=False)),
    Defect("limits", "n streamed", request=without("n", streamed=True)),
    Defect("limits", "logit_bias forces", request=without("logit_bias")),
    Defect("limits", "seed in company", answer=crowded),
    Defect("errors", "temperature negative", request=clamped),
    Defect("errors", "too long a prompt", request=cut_prompt),
    Defect(
        "errors",
        "error body",
        answer=when(lambda sent: sent.get("messages") == "text", lambda body: {"detail": body["error"]}),
    ),
    Defect(
        "errors",
        "calls cut short",
        answer=when(lambda sent: "Par" in str(sent.get("messages")), lambda body: body, 500),
    ),
    Defect(
        "errors", "top_p over 1", answer=when(lambda sent: sent.get("top_p") == 1.5, lambda body: body, 422)
    ),
    Defect(
        "errors",
        "unknown model",
        answer=when(
            lambda sent: "no-such" in sent.get("model", ""),
            lambda body: {**body, "model": "no-such-model-5f1c"},
            200,
        ),
    ),
    Defect("structured", "json_schema", request=without_schema),
    Defect("structured", "call ids", answer=when(always, each_call(lambda call: call.update(id="call_0")))),
    Defect(
        "structured",
        "call arguments",
        answer=when(
            always,
            each_call(
                lambda call: call["function"].update(arguments=json.loads(call["function"]["arguments"]))
            ),
        ),
    ),
    Defect("completions", "echo", "/completions", request=without("echo")),
    Defect("responses", "streamed", "/responses", events=lose_delta),
    Defect(
        "embeddings",
        "order",
        "/embeddings",
        answer=when(is_list, lambda body: {**body, "data": body["data"][::-1]}),
    ),
    Defect("embeddings", "batch as singles", "/embeddings", answer=when(is_list, one_vector)),
    Defect("embeddings", "base64", "/embeddings", answer=when(always, big_endian)),
    Defect("embeddings", "empty input", "/embeddings", request=never_empty),
    Defect("embeddings", "too long a text", "/embeddings", request=cut_texts),
    Defect(
        "embeddings",
        "shape",
        "/embeddings",
        answer=when(
            is_list,
            lambda body: json.dumps(body).replace("[-", "[NaN, -").replace("[0.", "[NaN, 0.").encode(),
        ),
    ),
    Defect("auth", "wrong key at embeddings", "/embeddings", key="sesame"),
    Defect("robustness", "ids of their own", answer=when(always, lambda body: {**body, "id": "chatcmpl-1"})),
    Defect(
        "robustness",
        "sixteen at once",
        answer=when(lambda sent: "number 7" in str(sent), lambda body: body, 503),
    ),
]


@pytest.mark.parametrize("defect", DEFECTS, ids=[defect.check for defect in DEFECTS])
def test_a_defect_is_found_by_its_check_alone(
    defect: Defect, url: str, broken: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(defect)
    options = ("--api-key", "sesame", "--model", "fake", "--embedding-model", "fake-embed")
    code, report = judged(url, capsys, *options, "--only", defect.group)
    assert names(report, "failed") == [defect.check]
    assert code == 1
    (found,) = [check for check in report["checks"] if check["status"] == "failed"]
    assert found["seen"]
    assert found["sent"].startswith(("POST", "GET"))


def test_a_lost_space_is_told_from_the_whole_answer(
    url: str, broken: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(Defect("stream", "same text", events=each_choice(spaced)))
    _, report = judged(url, capsys, "--api-key", "sesame", "--only", "stream")
    assert "same text" in names(report, "failed")


def test_names_are_unique_and_said_in_a_sentence() -> None:
    for checks in GROUPS.values():
        assert len({check.name for check in checks}) == len(checks)
        for check in checks:
            assert check.expected.endswith(".")
            assert check.source


def test_the_report_for_people(url: str, broken: Any, capsys: pytest.CaptureFixture[str]) -> None:
    broken(Defect("stream", "[DONE] last", events=no_done))
    assert run(["conformance", url, "--api-key", "sesame", "--only", "stream"]) == 1
    output = capsys.readouterr().out
    assert "failed   [DONE] last" in output
    assert "expected data: [DONE] is the last event, and comes once." in output
    assert "sent     POST /chat/completions {" in output
    assert "seen     0 × data: [DONE]" in output
    assert "14 of 15 passed (93 %), 1 failed, 0 skipped." in output
    assert "\x1b" not in output


def test_a_server_cannot_steer_the_terminal(
    url: str, broken: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(Defect("basics", "health", "/health", answer=when(always, lambda body: b"\x1b[2Jgone", 503)))
    assert run(["conformance", url, "--api-key", "sesame", "--only", "basics"]) == 1
    output = capsys.readouterr().out
    assert "seen     status 503: [2Jgone" in output
    assert "\x1b" not in output


def test_half_a_character_is_shown_as_a_question_mark(
    url: str, broken: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(Defect("stream", "", events=lambda events, sent: [{"error": "half \ud83d"}]))
    code, report = judged(url, capsys, "--api-key", "sesame", "--only", "stream")
    assert code == 1
    assert "an error in the middle of the stream: half ?" in [check["seen"] for check in report["checks"]]


def test_everything_is_written_to_a_file(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    assert run(["conformance", url, "--api-key", "sesame", "--only", "basics", "--json", str(path)]) == 0
    report = json.loads(path.read_text("utf-8"))
    assert report["passed"] == len(GROUPS["basics"])
    assert "passed (100 %)" in capsys.readouterr().out


def test_nobody_there_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["conformance", "http://127.0.0.1:9"]) == 2
    assert "No answer from http://127.0.0.1:9/v1" in capsys.readouterr().err


def test_a_refused_key_is_2(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["conformance", url]) == 2
    assert "--api-key" in capsys.readouterr().err


def test_nothing_that_could_be_judged_is_2(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["conformance", url, "--api-key", "sesame", "--only", "basics", "--total", "1e-9"]) == 2
    assert "Nothing could be judged" in capsys.readouterr().out


def test_silence_and_broken_connections_are_failures(
    server: TinyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """What looks at the same answer is skipped; nobody waits for it again."""
    options = ("--model", "tiny", "--embedding-model", "none", "--only", "stream", "--timeout", "0.5")
    for reply, seen in (
        (Reply(stall_after=2), "no answer within"),
        (Reply(drop_after=2), "the connection broke"),
        (Reply(fail_after=2), "an error in the middle of the stream"),
    ):
        server.reply = reply
        code, report = judged(server.url, capsys, *options)
        assert code == 1
        assert seen in report["checks"][0 if reply.fail_after is None else 1]["seen"]
        assert report["passed"] <= 2
