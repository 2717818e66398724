"""What a stream tells of tokens: at its end, or with every chunk."""

from __future__ import annotations

from typing import Any

import pytest
from fake_server import data_of, open_client

pytestmark = pytest.mark.anyio
REPLY = 'He said ,"usage":null}\n\ndata: so'
BODIES: dict[str, dict[str, Any]] = {
    "/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/completions": {"prompt": "Hi"},
}


@pytest.mark.parametrize("path", list(BODIES))
@pytest.mark.parametrize("n", [1, 3])
async def test_each_chunk_tells_what_was_used_so_far(path: str, n: int) -> None:
    async with open_client(behaviour={"reply": REPLY}) as client:
        options: dict[str, Any] = {"include_usage": True, "continuous_usage_stats": True}
        asked = {**BODIES[path], "n": n, "stream": True, "stream_options": options}
        response = await client.post(path, json=asked)
        assert "x-ignored-parameters" not in response.headers
        chunks = data_of(response.text)[:-1]
        plain = data_of(
            (
                await client.post(
                    path, json={**asked, "stream_options": {**options, "continuous_usage_stats": False}}
                )
            ).text
        )[:-1]
    texts = ["".join(_text(chunk) for chunk in found if _is_of(chunk, 0)) for found in (chunks, plain)]
    assert texts == [REPLY, REPLY]
    told = [chunk["usage"] for chunk in chunks if chunk["choices"] and chunk["usage"] is not None]
    counts = [usage["completion_tokens"] for usage in told]
    assert len(counts) > n
    assert counts == sorted(counts)
    assert all(usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] for usage in told)
    assert (
        told[-1]
        == chunks[-1]["usage"]
        == plain[-1]["usage"] | {"prompt_tokens_details": chunks[-1]["usage"]["prompt_tokens_details"]}
    )
    assert {chunk["usage"] for chunk in plain[:-1]} == {None}


def _is_of(chunk: dict[str, Any], index: int) -> bool:
    return bool(chunk["choices"]) and chunk["choices"][0]["index"] == index


def _text(chunk: dict[str, Any]) -> str:
    choice = chunk["choices"][0]
    return str(choice["text"] if "text" in choice else choice["delta"].get("content", ""))


async def test_alone_it_tells_nothing() -> None:
    async with open_client() as client:
        for options in (
            {"continuous_usage_stats": True},
            {"include_usage": False, "continuous_usage_stats": True},
        ):
            asked = {**BODIES["/completions"], "stream": True, "stream_options": options}
            assert all(
                "usage" not in chunk
                for chunk in data_of((await client.post("/completions", json=asked)).text)[:-1]
            )
