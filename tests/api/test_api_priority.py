"""`priority` and fair turns between keys, seen from outside."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fake_server import Client, open_client

pytestmark = pytest.mark.anyio

BEHAVIOUR = {"step_seconds": 0.001}
PATHS = {"/chat/completions": {"messages": [{"content": "Hi"}]}, "/completions": {"prompt": "Hi"}}


async def order_of(client: Client, requests: list[tuple[str, dict[str, Any], str]]) -> list[str]:
    """Send a blocker, then these (name, body, key) behind it; names as they were answered."""
    done: list[str] = []

    async def send(name: str, body: dict[str, Any], key: str, path: str = "/completions") -> None:
        headers = {"authorization": f"Bearer {key}"}
        response = await client.post(path, json={"max_tokens": 2, **body}, headers=headers)
        assert response.status_code == 200, response.text
        done.append(name)

    blocker = {"prompt": "blocker", "max_tokens": 150, "ignore_eos": True}
    tasks = [asyncio.create_task(send("blocker", blocker, "none"))]
    while not client.stats.num_running:
        await asyncio.sleep(0.001)
    for i, (name, body, key) in enumerate(requests):
        path = list(PATHS)[i % 2]
        tasks.append(asyncio.create_task(send(name, {**PATHS[path], **body}, key, path)))
        while client.stats.num_waiting <= i:
            await asyncio.sleep(0.001)
    await asyncio.gather(*tasks)
    return done[1:]


async def test_lower_numbers_are_answered_first() -> None:
    async with open_client(behaviour=BEHAVIOUR, max_concurrency=1) as client:
        numbers = [3, 0, -2, None, 1000, -1000]
        bodies = [(str(number), {} if number is None else {"priority": number}, "k") for number in numbers]
        first, second, *others = await order_of(client, bodies)
        assert [first, second] == ["-1000", "-2"]
        assert set(others[:2]) == {"0", "None"}
        assert others[2:] == ["3", "1000"]


async def test_a_key_with_many_requests_does_not_hold_up_another() -> None:
    keys = ("none", "many", "one")
    async with open_client(behaviour=BEHAVIOUR, max_concurrency=1, api_key=keys) as client:
        requests = [(f"many {i}", {}, "many") for i in range(8)]
        order = await order_of(client, [*requests, ("one", {}, "one")])
        assert order.index("one") <= 1


@pytest.mark.parametrize("path", list(PATHS))
@pytest.mark.parametrize("value", [1001, -1001, 10**30, 0.5, "1", True, [0]])
async def test_other_values_are_refused_by_name(path: str, value: Any) -> None:
    async with open_client() as client:
        response = await client.post(path, json={**PATHS[path], "priority": value})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "priority"
