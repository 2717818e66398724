"""The official client's files and batches against a live server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from fake_server import fake_app, running_server
from openai import OpenAI

REPLY = "Hello 😀"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def sdk() -> Iterator[OpenAI]:
    with (
        running_server(fake_app(behaviour={"reply": REPLY}, max_concurrency=4)) as url,
        OpenAI(api_key="any", base_url=f"{url}/v1", max_retries=0) as opened,
    ):
        yield opened


def request(custom_id: str, url: str = CHAT, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "fake", **body}}


def chat(custom_id: str, **more: Any) -> dict[str, Any]:
    return request(custom_id, messages=[{"role": "user", "content": custom_id}], **more)


def upload(sdk: OpenAI, lines: list[Any]) -> str:
    content = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    return sdk.files.create(file=("in.jsonl", content.encode()), purpose="batch").id


def ended(sdk: OpenAI, batch_id: str) -> Any:
    while (batch := sdk.batches.retrieve(batch_id)).status in ("validating", "in_progress", "finalizing"):
        time.sleep(0.005)
    return batch


def run(sdk: OpenAI, lines: list[Any], endpoint: Any = CHAT) -> Any:
    made = sdk.batches.create(
        input_file_id=upload(sdk, lines), endpoint=endpoint, completion_window="24h", metadata={"of": "tests"}
    )
    assert (made.status, made.metadata) == ("validating", {"of": "tests"})
    return ended(sdk, made.id)


def results(sdk: OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    lines = [json.loads(line) for line in sdk.files.content(file_id).text.splitlines()]
    return {line["custom_id"]: line for line in lines}


def test_answers_and_errors(sdk: OpenAI) -> None:
    batch = run(sdk, [*(chat(f"r{i}") for i in range(20)), chat("bad", temperature=9), ""])
    assert batch.status == "completed"
    assert batch.request_counts.to_dict() == {"total": 21, "completed": 20, "failed": 1}
    assert batch.created_at <= batch.in_progress_at <= batch.completed_at < batch.expires_at
    good, bad = results(sdk, batch.output_file_id), results(sdk, batch.error_file_id)
    assert sorted(good) == sorted(f"r{i}" for i in range(20))
    answer = good["r7"]["response"]
    assert (answer["status_code"], good["r7"]["error"]) == (200, None)
    assert answer["body"]["choices"][0]["message"]["content"] == REPLY
    assert len({line["response"]["request_id"] for line in good.values()}) == 20
    refused = bad["bad"]["response"]
    assert (refused["status_code"], refused["body"]["error"]["param"]) == (400, "temperature")
    described = sdk.files.retrieve(batch.output_file_id)
    assert (described.purpose, described.filename) == ("batch_output", f"{batch.id}_output.jsonl")


@pytest.mark.parametrize(
    ("endpoint", "body", "shown"),
    [
        ("/v1/completions", {"prompt": "Hi"}, "text_completion"),
        ("/v1/responses", {"input": "Hi"}, "response"),
        ("/v1/embeddings", {"input": ["a", "b"], "model": "fake-embed"}, "list"),
    ],
)
def test_other_endpoints(sdk: OpenAI, endpoint: str, body: dict[str, Any], shown: str) -> None:
    batch = run(sdk, [request("only", endpoint, **body)], endpoint)
    answer = results(sdk, batch.output_file_id)["only"]["response"]["body"]
    assert (answer["object"], batch.error_file_id) == (shown, None)


@pytest.mark.parametrize(
    ("lines", "line", "param", "said"),
    [
        ([chat("a"), "{"], 2, None, "not valid JSON"),
        ([chat("a"), chat("a")], 2, "custom_id", "another line"),
        ([{**chat("a"), "method": "GET"}], 1, "method", "POST"),
        ([request("a", "/v1/embeddings", input="b")], 1, "url", CHAT),
        ([chat("a", stream=True)], 1, "body.stream", "leave it out"),
        (["", " "], None, None, "no request"),
        ([{**chat("a"), "custom_id": 5}], 1, "custom_id", "string"),
        ([{**chat("a"), "body": "b"}], 1, "body", "object"),
        (["[5]"], 1, None, "object"),
    ],
)
def test_a_file_that_is_wrong_is_told_by_its_lines(
    sdk: OpenAI, lines: list[Any], line: int | None, param: str | None, said: str
) -> None:
    batch = run(sdk, lines)
    (problem,) = batch.errors.data
    assert (batch.status, problem.line, problem.param) == ("failed", line, param)
    assert said in problem.message
    assert batch.output_file_id is batch.error_file_id is None


def test_cancelled(sdk: OpenAI) -> None:
    endless = [chat(f"r{i}", max_tokens=3000, ignore_eos=True) for i in range(8)]
    file_id = upload(sdk, [chat("first"), *endless])
    batch = sdk.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h")
    while not sdk.batches.retrieve(batch.id).request_counts.completed:  # type: ignore[union-attr]
        time.sleep(0.005)
    assert sdk.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    while (batch := sdk.batches.retrieve(batch.id)).status == "cancelling":
        time.sleep(0.005)
    assert (batch.status, list(results(sdk, batch.output_file_id))) == ("cancelled", ["first"])
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        sdk.batches.cancel(batch.id)


def test_lists_and_their_pages(sdk: OpenAI) -> None:
    ids = [upload(sdk, [chat("a")]) for _ in range(3)]
    assert [file.id for file in sdk.files.list(limit=2)][:3] == ids[::-1]  # the client asks for further pages
    assert [file.id for file in sdk.files.list(order="asc", after=ids[0])] == ids[1:]
    made = [run(sdk, [chat("a")]).id for _ in range(3)]
    assert [batch.id for batch in sdk.batches.list(limit=2)][:3] == made[::-1]
    assert all(file.purpose == "batch_output" for file in sdk.files.list(purpose="batch_output"))
    with pytest.raises(openai.BadRequestError, match="limit"):
        sdk.batches.list(limit=101)


def test_a_file_that_is_deleted(sdk: OpenAI) -> None:
    file_id = upload(sdk, [chat("a")])
    assert sdk.files.content(file_id).read() == json.dumps(chat("a")).encode()
    assert sdk.files.delete(file_id).deleted
    for ask in (sdk.files.retrieve, sdk.files.content, sdk.files.delete):
        with pytest.raises(openai.NotFoundError, match="no file"):
            ask(file_id)
    with pytest.raises(openai.NotFoundError):
        sdk.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h")
    with pytest.raises(openai.NotFoundError, match="no batch"):
        sdk.batches.retrieve("batch_none")


def test_a_file_has_its_time(sdk: OpenAI) -> None:
    expiry: Any = {"anchor": "created_at", "seconds": 3600}
    file = sdk.files.create(file=("in.jsonl", b"{}"), purpose="batch", expires_after=expiry)
    assert file.expires_at == file.created_at + 3600
    with pytest.raises(openai.BadRequestError, match="expires_after.seconds"):
        sdk.files.create(file=("in.jsonl", b"{}"), purpose="batch", expires_after={**expiry, "seconds": 5})
