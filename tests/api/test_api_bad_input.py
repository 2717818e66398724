"""Whatever comes in, the answer is a 400 that names the field, and the server goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fake_server import Client, open_client

from llm_serving.backends.fake import VOCAB_SIZE

pytestmark = pytest.mark.anyio

USER = {"role": "user", "content": "Hello"}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Client]:
    async with open_client(max_body_bytes="512k", max_concurrency=8, max_queue=8) as client:
        yield client


async def check_refused(
    client: Client, path: str, body: bytes | Any, param: str | None, status: int = 400
) -> str:
    """The refusal is of OpenAI's form, names `param`, and the next request is answered."""
    kind = {"content": body} if isinstance(body, bytes) else {"json": body}
    response = await client.post(path, **kind)
    error = response.json()["error"]
    assert response.status_code == status, error
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param, error
    assert error["message"]
    if param:
        assert param.split(".")[-1] in error["message"] or param in error["message"]
    after = await client.post("/chat/completions", json={"messages": [USER], "max_tokens": 1})
    assert after.status_code == 200
    return str(error["message"])


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/completions"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"7",
        b"{'messages': []}",
        b'{"messages": [],}',
        b'{"a": 1}{"b": 2}',
        b'\xef\xbb\xbf{"messages": []}',
        b'{"messages": "\xff\xfe"}',
        b'{"messages": "\\ud800"}',
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b'{"temperature": 1e999}',
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b"[" * 30000,
        b"\x00" * 100,
    ],
)
async def test_what_is_not_a_json_object(server: Client, path: str, body: bytes) -> None:
    message = await check_refused(server, path, body, None)
    assert "body" in message


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/chat/completions", "stream_options"),
        ("/chat/completions", "response_format"),
        ("/responses", "reasoning"),
        ("/responses", "text"),
        ("/responses", "metadata"),
        ("/messages", "thinking"),
        ("/api/chat", "options"),
    ],
)
@pytest.mark.parametrize("value", [5, "on", [], True])
async def test_what_is_no_object(server: Client, path: str, field: str, value: Any) -> None:
    body = {"messages": [USER], "input": "Hi", "max_tokens": 1, field: value}
    response = await server.post(path, json=body)
    error = response.json()["error"]
    assert response.status_code == 400
    assert (error if isinstance(error, str) else error["message"]) == f"'{field}' must be an object."


MESSAGES: list[tuple[Any, str]] = [
    (None, "messages"),
    ([], "messages"),
    ({}, "messages"),
    ("Hello", "messages"),
    (7, "messages"),
    (["Hello"], "messages.0"),
    ([USER, None], "messages.1"),
    ([[]], "messages.0"),
    ([USER] * 10_001, "messages"),
    ([{"role": "robot", "content": "x"}], "messages.0.role"),
    ([{"role": 1, "content": "x"}], "messages.0.role"),
    ([{"role": ["user"], "content": "x"}], "messages.0.role"),
    ([USER, {"role": "user", "content": 5}], "messages.1.content"),
    ([{"role": "user", "content": True}], "messages.0.content"),
    ([{"role": "user", "content": {"text": "x"}}], "messages.0.content"),
]


@pytest.mark.parametrize(("messages", "param"), MESSAGES)
async def test_wrong_messages(server: Client, messages: Any, param: str) -> None:
    await check_refused(server, "/chat/completions", {"messages": messages}, param)


async def test_messages_missing(server: Client) -> None:
    message = await check_refused(server, "/chat/completions", {"model": "x"}, "messages")
    assert "required" in message


FIELDS: list[tuple[str, Any]] = [
    ("model", 5),
    ("model", "x" * 1000),
    ("stream", "true"),
    ("stream", 1),
    ("stream_options", []),
    ("stream_options", {"include_usage": True}),  # without stream
    ("n", 0),
    ("n", -1),
    ("n", 17),
    ("n", 9),  # more than run at the same time here
    ("n", 10**30),
    ("n", True),
    ("n", 1.5),
    ("max_tokens", 0),
    ("max_tokens", -5),
    ("max_tokens", "10"),
    ("max_tokens", True),
    ("max_tokens", 1.5),
    ("max_tokens", 10**30),
    ("max_tokens", []),
    ("temperature", -0.1),
    ("temperature", 2.1),
    ("temperature", "0.5"),
    ("temperature", True),
    ("temperature", 10**400),
    ("temperature", {}),
    ("top_p", -0.1),
    ("top_p", 1.01),
    ("top_p", "1"),
    ("top_k", -2),
    ("top_k", 1.5),
    ("top_k", False),
    ("top_k", 2**31),
    ("min_p", -0.1),
    ("min_p", 1.1),
    ("typical_p", 0),
    ("typical_p", 1.01),
    ("typical_p", "1"),
    ("presence_penalty", 2.5),
    ("presence_penalty", "0"),
    ("frequency_penalty", -2.5),
    ("frequency_penalty", [0]),
    ("repetition_penalty", 0),
    ("repetition_penalty", -1),
    ("repetition_penalty", 1e9),
    ("repetition_penalty", 5e-324),
    ("seed", "1"),
    ("seed", 1.5),
    ("seed", True),
    ("seed", 2**63),
    ("seed", -(2**63) - 1),
    ("stop", 5),
    ("stop", {}),
    ("stop", ""),
    ("stop", [""]),
    ("stop", [1]),
    ("stop", [None]),
    ("stop", ["x"] * 17),
    ("stop", ["x"] * 10_000),
    ("stop", "x" * 257),
    ("ignore_eos", 1),
    ("ignore_eos", "false"),
    ("user", 5),
    ("user", "x" * 513),
]


@pytest.mark.parametrize(("field", "value"), FIELDS)
async def test_wrong_values(server: Client, field: str, value: Any) -> None:
    # 10**400 is no number that JSON libraries here can write.
    if value == 10**400:
        body: Any = b'{"messages": [{"content": "x"}], "temperature": 1' + b"0" * 400 + b"}"
        await check_refused(server, "/chat/completions", body, None)
        return
    for path, base in (("/chat/completions", {"messages": [USER]}), ("/completions", {"prompt": "x"})):
        response = await server.post(path, json={**base, field: value})
        param = response.json()["error"]["param"]
        assert response.status_code == 400
        assert param.split(".")[0] == field
    await check_refused(server, "/chat/completions", {"messages": [USER], field: value}, param)


PROMPTS: list[Any] = [None, 5, {}, [], True, [True], [1, "x"], [["x"]], [1.5], [[1], "x"], [[True]], "", [[]]]


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_wrong_prompts(server: Client, prompt: Any) -> None:
    if prompt == "":  # this model starts every text with a token of its own
        response = await server.post("/completions", json={"prompt": prompt, "max_tokens": 1})
        assert response.status_code == 200
        return
    await check_refused(server, "/completions", {"prompt": prompt}, "prompt")


@pytest.mark.parametrize("ids", [[-1], [VOCAB_SIZE], [10**12], [0, 1, -5]])
async def test_token_ids_outside_the_vocabulary(server: Client, ids: list[int]) -> None:
    await check_refused(server, "/completions", {"prompt": ids}, "prompt")
    await check_refused(server, "/completions", {"prompt": [[1], ids]}, "prompt.1")


async def test_more_answers_than_the_server_holds(server: Client) -> None:
    message = await check_refused(server, "/completions", {"prompt": ["x"] * 17}, "prompt")
    assert "17" in message
    assert "16" in message


async def test_prompt_over_the_context(server: Client) -> None:
    message = await check_refused(server, "/completions", {"prompt": "x" * 5000}, "prompt")
    assert "5001" in message
    assert "4096" in message


async def test_unknown_paths_and_methods_have_the_same_form(server: Client) -> None:
    for method, path, status in [
        ("GET", "/nothing", 404),
        ("POST", "/v1/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/models", 405),
        ("POST", "/chat/completions/", 404),
        ("GET", "/models/../../etc/passwd", 404),
    ]:
        response = await server.request(method, path)
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": []}, "'messages' should have at least 1 item, not 0"),
        ({"user": "a" * 600}, "'user' should have at most 512 characters"),
    ],
)
async def test_sizes_are_told_without_the_names_of_types(fields: dict[str, Any], message: str) -> None:
    async with open_client() as client:
        response = await client.post("/chat/completions", json={"messages": [{"content": "a"}], **fields})
    assert response.status_code == 400
    assert response.json()["error"]["message"] == message
