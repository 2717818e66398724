"""`priority` and fair turns between keys, seen from outside."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fake_server import Client, open_client
from patience import Gate, until

pytestmark = pytest.mark.anyio

PATHS = {"/chat/completions": {"messages": [{"content": "Hi"}]}, "/completions": {"prompt": "Hi"}}


async def order_of(requests: list[tuple[str, dict[str, Any], str]], **settings: Any) -> list[str]:
    """Send a blocker, then these (name, body, key) behind it; names as they were answered."""
    gate = Gate()
    async with open_client(behaviour={"before_step": gate.pass_}, max_concurrency=1, **settings) as client:
        return await _order_of(client, gate, requests)


async def _order_of(client: Client, gate: Gate, requests: list[tuple[str, dict[str, Any], str]]) -> list[str]:
    done: list[str] = []

    async def send(name: str, body: dict[str, Any], key: str, path: str = "/completions") -> None:
        headers = {"authorization": f"Bearer {key}"}
        response = await client.post(path, json={"max_tokens": 2, **body}, headers=headers)
        assert response.status_code == 200, response.text
        done.append(name)

    gate.shut()
    tasks = [asyncio.create_task(send("blocker", {"prompt": "blocker"}, "none"))]
    await until(lambda: client.stats.num_running)
    for i, (name, body, key) in enumerate(requests):
        path = list(PATHS)[i % 2]
        tasks.append(asyncio.create_task(send(name, {**PATHS[path], **body}, key, path)))
        await until(lambda num=i: client.stats.num_waiting > num)
    gate.open()
    await asyncio.gather(*tasks)
    return done[1:]


async def test_lower_numbers_are_answered_first() -> None:
    numbers = [3, 0, -2, None, 1000, -1000]
    bodies = [(str(number), {} if number is None else {"priority": number}, "k") for number in numbers]
    first, second, *others = await order_of(bodies)
    assert [first, second] == ["-1000", "-2"]
    assert set(others[:2]) == {"0", "None"}
    assert others[2:] == ["3", "1000"]


async def test_a_key_with_many_requests_does_not_hold_up_another() -> None:
    requests = [(f"many {i}", {}, "many") for i in range(8)]
    order = await order_of([*requests, ("one", {}, "one")], api_key=("none", "many", "one"))
    assert order.index("one") <= 1


@pytest.mark.parametrize("path", list(PATHS))
@pytest.mark.parametrize("value", [1001, -1001, 10**30, 0.5, "1", True, [0]])
async def test_other_values_are_refused_by_name(path: str, value: Any) -> None:
    async with open_client() as client:
        response = await client.post(path, json={**PATHS[path], "priority": value})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "priority"
