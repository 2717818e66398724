"""Ollama's API: what is refused, in its shape, under the names that the client sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fake_server import Client, open_client

pytestmark = pytest.mark.anyio

USER = {"role": "user", "content": "Hi"}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Client]:
    async with open_client(max_body_bytes="512k", max_embedding_inputs=3) as client:
        yield client


def said(*messages: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [USER, *messages, USER], **fields}


DEEP: dict[str, Any] = {"type": "object"}
for _ in range(200):
    DEEP = {"type": "object", "properties": {"a": DEEP}}

BODIES: list[tuple[str, dict[str, Any], str]] = [
    ("chat", {"messages": "Hi"}, "messages"),
    ("chat", said("Hi"), "messages.1"),
    ("chat", said({"role": "robot", "content": "x"}), "messages.1.role"),
    ("chat", said({"role": "user", "content": 5}), "messages.1.content"),
    ("chat", said({**USER, "images": ["aGk="]}), "messages.1.images"),
    ("chat", said({"role": "tool", "tool_name": "a b", "content": "5"}), "messages.1.tool_name"),
    ("chat", said({"role": "tool", "tool_name": 5, "content": "5"}), "messages.1.tool_name"),
    ("chat", said({"role": "assistant", "tool_calls": [5]}), "messages.1.tool_calls.0"),
    ("chat", said({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 5}}]}),
     "messages.1.tool_calls.0.function.arguments"),
    ("chat", {"messages": [USER] * 10_001}, "messages"),
    ("chat", said({"role": "assistant", "content": "I", "thinking": 5}), "messages.1.thinking"),
    ("chat", {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]}, "messages"),
    ("generate", {"prompt": "Hi", "suffix": "end"}, "suffix"),
    ("generate", {"prompt": "Hi", "suffix": "end", "system": "Be kind."}, "system"),
    ("chat", said(tools=[5]), "tools.0"),
    ("chat", said(tools=[{"type": "function", "function": {"name": "a b"}}]), "tools.0.function.name"),
    ("chat", said(format="xml"), "format"),
    ("chat", said(format=["json"]), "format"),
    ("chat", said(format={"type": "none such"}), "format"),
    ("chat", said(format=DEEP), "format"),
    ("chat", said(format="json", tools=[{"type": "function", "function": {"name": "f", "strict": True}}]),
     "format"),
    ("chat", said(options=[]), "options"),
    ("chat", said(options={"temperature": True}), "options.temperature"),
    ("chat", said(options={"num_predict": 0}), "options.num_predict"),
    ("chat", said(options={"num_predict": 10**30}), "options.num_predict"),
    ("chat", said(options={"num_ctx": 4097}), "options.num_ctx"),
    ("chat", said(options={"stop": ["x"] * 17}), "options.stop"),
    ("chat", said(options={"mirostat": 2}), "options.mirostat"),
    ("chat", said(keep_alive="5 m"), "keep_alive"),
    ("chat", said(keep_alive="9" * 5000), "keep_alive"),
    ("chat", said(keep_alive=[]), "keep_alive"),
    ("chat", {"messages": [], "keep_alive": 0}, "keep_alive"),
    ("chat", said(top_logprobs=2), "top_logprobs"),
    ("chat", said(think="high"), "think"),
    ("generate", {"prompt": "Hi", "options": {"num_ctx": 4097}}, "options.num_ctx"),
    ("generate", {"prompt": "Hi", "raw": True, "system": "Be kind."}, "system"),
    ("generate", {"prompt": "Hi", "raw": True, "think": True}, "think"),
    ("generate", {"prompt": "Hi", "suffix": "end", "think": "low"}, "think"),
    ("generate", {"prompt": "Hi", "raw": True, "top_logprobs": 2}, "top_logprobs"),
    ("generate", {"prompt": "Hi", "template": "{{ .Prompt }}"}, "template"),
    ("generate", {"prompt": "Hi", "context": [1]}, "context"),
    ("generate", {"prompt": ["Hi"]}, "prompt"),
    ("generate", {"prompt": "", "keep_alive": "0s"}, "keep_alive"),
    ("generate", {"model": "fake-embed", "prompt": "Hi"}, "fake-embed"),
    ("embed", {"input": 5}, "input"),
    ("embed", {"input": [5]}, "input.0"),
    ("embed", {"input": ["a", ""]}, "input.1"),
    ("embed", {"input": ["a"] * 4}, "input"),
    ("embed", {"input": "a", "options": {"num_ctx": 10**6}}, "options.num_ctx"),
    ("embed", {"input": "a " * 5000, "truncate": False}, "truncate: true"),
    ("embed", {"input": ["a", "a " * 5000], "truncate": False}, "input.1"),
    ("embed", {"input": "a", "dimensions": 10**6}, "dimensions"),
    ("embed", {"input": "a", "model": "fake"}, "fake"),
    ("embed", {"input": [], "keep_alive": 0.0}, "keep_alive"),
    ("embeddings", {"prompt": ["a"]}, "prompt"),
    ("embeddings", {"prompt": "a " * 5000}, "/api/embed"),
    ("embeddings", {"prompt": "", "keep_alive": "0"}, "keep_alive"),
    ("show", {}, "model"),
    ("show", {"model": ""}, "model"),
    ("show", {"model": "x" * 1000}, "model"),
    ("pull", {"name": 5}, "name"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "named"), BODIES, ids=[f"{path}-{at}" for path, _, at in BODIES])
async def test_wrong_bodies(server: Client, path: str, body: dict[str, Any], named: str) -> None:
    response = await server.post(f"/api/{path}", json=body)
    assert response.status_code == 400, response.text
    assert list(response.json()) == ["error"]
    message = response.json()["error"]
    assert named in message
    for other in ("response_format", "max_tokens", "truncate_prompt_tokens", "messages.1.name"):
        assert other not in message
    after = await server.post("/api/chat", json={"messages": [USER], "options": {"num_predict": 1}})
    assert after.status_code == 200


@pytest.mark.parametrize("path", ["chat", "generate", "embed", "embeddings", "show", "pull"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"a": NaN}', b'{"a":' * 5000 + b"1" + b"}" * 5000]
)
async def test_what_is_not_a_json_object(server: Client, path: str, content: bytes) -> None:
    response = await server.post(f"/api/{path}", content=content)
    assert response.status_code == 400
    assert "body" in response.json()["error"]


async def test_statuses(server: Client) -> None:
    response = await server.post("/api/chat", content=b'{"a": "' + b"x" * 600_000 + b'"}')
    assert response.status_code == 413
    assert "--max-body-bytes" in response.json()["error"]
    long = await server.post("/api/chat", json={"messages": [{"role": "user", "content": "x" * 5000}]})
    assert long.status_code == 400
    assert "4096 tokens" in long.json()["error"]
    assert "options.num_predict" in long.json()["error"]
    async with open_client(strict_model_names=True, embedding_model="") as client:
        for path, body in (
            ("chat", {"messages": [USER]}),
            ("chat", {}),
            ("generate", {"prompt": "Hi"}),
            ("embed", {"input": "Hi"}),
            ("show", {}),
            ("pull", {}),
        ):
            response = await client.post(f"/api/{path}", json={"model": "llama3.2", **body})
            assert response.status_code == 404
            assert "'llama3.2' does not exist" in response.json()["error"]
        response = await client.post("/api/chat", json={"model": "fake:latest", "messages": [USER]})
        assert response.status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/create"),
        ("POST", "/api/copy"),
        ("POST", "/api/push"),
        ("DELETE", "/api/delete"),
        ("POST", "/api/blobs/sha256:29fdb92e57cf0827ded04ae6461b5931d01fa595843f55d36f5b275a52087dd2"),
    ],
)
async def test_models_are_not_changed(server: Client, method: str, path: str) -> None:
    response = await server.request(method, path, json={"model": "fake"})
    assert response.status_code == 400
    assert "llm-serving models" in response.json()["error"]
