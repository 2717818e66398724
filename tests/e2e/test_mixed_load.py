"""Chat and embeddings at once on the real server: neither changes what the other answers."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.model, pytest.mark.anyio]

TEXTS = [f"{'The rain in Spain stays mainly in the plain. ' * (i % 9)}Text {i}." for i in range(48)]


async def vectors(client: httpx.AsyncClient, texts: list[str]) -> list[str]:
    body = {"input": texts, "encoding_format": "base64"}
    response = await client.post("/embeddings", json=body)
    assert response.status_code == 200, response.text
    return [item["embedding"] for item in response.json()["data"]]


async def answer(client: httpx.AsyncClient, seed: int) -> str:
    messages = [{"role": "user", "content": f"Tell me about the number {seed}."}]
    body: dict[str, Any] = {"messages": messages, "max_tokens": 24, "temperature": 0.8, "seed": seed}
    response = await client.post("/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


async def test_a_mix_of_chat_and_embeddings(real_server: str) -> None:
    async with httpx.AsyncClient(base_url=real_server, timeout=120) as client:
        texts_alone = [await answer(client, seed) for seed in range(4)]
        rows_alone = await vectors(client, TEXTS)
        mixed = await asyncio.gather(
            *(answer(client, seed) for seed in range(4)),
            *(vectors(client, TEXTS) for _ in range(3)),
            *(vectors(client, [text]) for text in TEXTS),
        )
    assert mixed[:4] == texts_alone
    assert mixed[4:7] == [rows_alone] * 3
    assert [row for (row,) in mixed[7:]] == rows_alone
