"""What tests of background responses say and ask."""

from __future__ import annotations

import asyncio
from typing import Any

from fake_server import Client
from patience import until

REPLY = "Hello, world! 😀"
SAYS = {"reply": REPLY, "step_seconds": 0.002}
SLOW = {"random": True, "step_seconds": 0.01}
BODY: dict[str, Any] = {"input": "Hi", "background": True}
ENDLESS: dict[str, Any] = {**BODY, "max_output_tokens": 3000, "ignore_eos": True}


async def begun(client: Client, **fields: Any) -> dict[str, Any]:
    response = await client.post("/v1/responses", json={**ENDLESS, **fields})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def now(client: Client, response_id: str) -> dict[str, Any]:
    response = await client.get(f"/responses/{response_id}")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def until_is(client: Client, response_id: str, *statuses: str) -> dict[str, Any]:
    while (found := await now(client, response_id))["status"] not in statuses:
        assert found["status"] in ("queued", "in_progress"), found
        await asyncio.sleep(0.001)
    return found


async def at_work(client: Client, num: int = 1) -> list[str]:
    """Wait until so many are at work; their ids."""
    await until(lambda: len(client.services.responses._at_work) >= num)
    return [response_id for _, response_id in client.services.responses._at_work]


async def until_idle(client: Client) -> None:
    await until(lambda: not (client.stats.num_running or client.stats.num_waiting))
