"""Loads send what was asked for, count what the server says, and name their errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tiny_openai_server import Reply, TinyServer, prompt_tokens

from llm_serving.cli.bench_report import percentile
from llm_serving.cli.program import run


def bench(
    server: TinyServer, capsys: pytest.CaptureFixture[str], *options: str, code: int = 0
) -> dict[str, Any]:
    assert run(["bench", "--json", "--url", server.url, *options]) == code
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_closed_loop_counts_tokens_from_usage(server: TinyServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.reply = Reply(output_tokens=20)  # in three events
    result = bench(server, capsys, "--requests", "10", "--clients", "3", "--warmup", "2")
    assert (result["mode"], result["requests"], result["succeeded"], result["errors"]) == (
        "closed loop",
        10,
        10,
        {},
    )
    assert result["output_tokens"] == 200
    assert result["cached_tokens"] == 40
    assert len(server.requests) == 2 + 2 + 10  # calibration, warm-up, measured
    assert result["output_tok_s"] == pytest.approx(200 / result["wall_s"])
    for key in ("ttft_ms", "itl_ms", "gap_ms", "e2e_ms"):
        spread = result[key]
        assert 0 <= spread["p50"] <= spread["p95"] <= spread["p99"] <= spread["max"]
        assert key in result["formulas"]
    assert result["ttft_ms"]["max"] <= result["e2e_ms"]["max"]


def test_prompts_have_the_length_asked_for_and_share_what_they_should(
    server: TinyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(
        server,
        capsys,
        "--requests",
        "5",
        "--prompt-tokens",
        "210",
        "--shared-prefix",
        "100",
        "--max-tokens",
        "7",
    )
    measured = server.requests[-5:]
    assert [prompt_tokens(request) for request in measured] == [210] * 5
    texts = [request["messages"][0]["content"].split() for request in measured]
    assert len({tuple(words[:50]) for words in texts}) == 1
    assert len({tuple(words[50:]) for words in texts}) == 5
    for request in measured:
        assert request["max_tokens"] == 7
        assert request["stream"] is True
        assert request["ignore_eos"] is True
        assert request["stream_options"] == {"include_usage": True}


def test_the_same_seed_sends_the_same_prompts(server: TinyServer, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in ("1", "1", "2"):
        bench(server, capsys, "--requests", "3", "--clients", "1", "--seed", seed)
    first, second, third = (
        [request["messages"] for request in server.requests[start : start + 7]] for start in (0, 7, 14)
    )
    assert first == second != third


def test_open_loop(server: TinyServer, capsys: pytest.CaptureFixture[str]) -> None:
    result = bench(server, capsys, "--requests", "8", "--rate", "2000")
    assert (result["mode"], result["rate"], result["clients"], result["succeeded"]) == (
        "open loop",
        2000,
        None,
        8,
    )


def test_errors_are_counted_by_status(server: TinyServer, capsys: pytest.CaptureFixture[str]) -> None:
    good = [Reply() for _ in range(4)]
    server.replies = [*good, Reply(status=429), Reply(), Reply(status=429), Reply(status=503)]
    result = bench(server, capsys, "--requests", "6", "--clients", "1", "--warmup", "2")
    assert result["errors"] == {"429": 2, "503": 1}
    assert result["first_error"] == "not today"
    assert result["succeeded"] == 3
    assert result["output_tokens"] == 9


def test_no_good_answer_ends_with_1(server: TinyServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.replies = [Reply(), Reply()]
    server.reply = Reply(status=500)
    result = bench(server, capsys, "--requests", "2", "--warmup", "0", code=1)
    assert result["errors"] == {"500": 2}
    assert result["ttft_ms"] == {}


def test_no_request_is_started_after_the_duration(
    server: TinyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    result = bench(server, capsys, "--requests", "5000", "--duration", "0.05")
    assert 0 < result["requests"] < 5000


def test_the_table_says_the_same(
    server: TinyServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_SERVING_API_KEY", "sesame,another")
    assert run(["bench", "--url", server.url, "--requests", "4", "name"]) == 0
    output = capsys.readouterr().out
    assert "4 of 4 requests answered" in output
    assert "12 output tokens" in output
    assert all(word in output for word in ("TTFT", "ITL", "e2e", "p99", "itl_ms: (last event"))
    assert server.requests[-1]["model"] == "name"
    assert "Authorization: Bearer sesame" in server.headers[-1]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(status=401), "--api-key"),
        (Reply(send_usage=False), "include_usage"),
        (Reply(status=404), "not today"),
    ],
)
def test_a_server_that_refuses_the_warm_up_is_an_error(
    server: TinyServer, capsys: pytest.CaptureFixture[str], reply: Reply, message: str
) -> None:
    server.reply = reply
    assert run(["bench", "--url", server.url]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_percentiles_are_measured_values() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, percent) for percent in (0, 50, 95, 99, 100)] == [1, 50, 95, 99, 100]
    assert percentile([7.0], 99) == 7.0
