"""Events of responses that are made in the background: read as they come, again, and from any number on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from background_client import BODY, ENDLESS, REPLY, SAYS, SLOW, at_work, begun, now, until_is
from fake_server import Client, kinds, open_client, typed_events
from patience import Gate, until

from llm_serving.service.event_log import EventLog

pytestmark = pytest.mark.anyio


async def streamed(client: Client, **fields: Any) -> list[dict[str, Any]]:
    response = await client.post("/responses", json={**BODY, "stream": True, **fields})
    assert response.headers["content-type"].startswith("text/event-stream")
    return typed_events(response.text)


async def replayed(client: Client, response_id: str, query: str = "") -> list[dict[str, Any]]:
    response = await client.get(f"/v1/responses/{response_id}?stream=true{query}")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return typed_events(response.text) if response.text else []


async def test_events_and_those_behind_each_of_them() -> None:
    async with open_client(behaviour=SAYS) as client:
        events = await streamed(client)
        response_id = events[0]["response"]["id"]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert kinds(events)[:4] == ["created", "queued", "in_progress", "output_item.added"]
        statuses = [event["response"]["status"] for event in events if "response" in event]
        assert statuses == ["queued", "queued", "in_progress", "completed"]
        assert "".join(event.get("delta", "") for event in events) == REPLY
        assert events[-1]["response"] == await now(client, response_id)
        assert await replayed(client, response_id) == events
        for after in range(len(events)):
            assert await replayed(client, response_id, f"&starting_after={after}") == events[after + 1 :]


async def test_several_read_what_is_being_made() -> None:
    gate = Gate()
    gate.shut()
    async with open_client(behaviour={"reply": "x" * 60, "before_step": gate.pass_}) as client:
        reading = asyncio.create_task(streamed(client))
        (response_id,) = await at_work(client)
        gate.open(1)
        await until_is(client, response_id, "in_progress")
        queries = ("", "&starting_after=1", "&starting_after=2")
        reading_too = [asyncio.create_task(replayed(client, response_id, query)) for query in queries]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in reading_too)
        gate.open()
        others = await asyncio.gather(*reading_too)
        events = await reading
    assert others == [events, events[2:], events[3:]]


async def test_a_cancelled_stream_says_so() -> None:
    async with open_client(behaviour=SLOW) as client:
        reading = asyncio.create_task(streamed(client, **ENDLESS))
        await until(lambda: client.stats.num_generated_tokens >= 5)
        (response_id,) = await at_work(client)
        cancelled = (await client.post(f"/responses/{response_id}/cancel")).json()
        events = await reading
    assert kinds(events)[-4:] == ["output_text.done", "content_part.done", "output_item.done", "cancelled"]
    assert events[-1]["response"] == cancelled


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("stream=maybe", "stream"),
        ("starting_after=0", "starting_after"),
        ("stream=false&starting_after=0", "starting_after"),
        ("stream=true&starting_after=-1", "starting_after"),
        ("stream=true&starting_after=x", "starting_after"),
        ("stream=true&starting_after=", "starting_after"),
        ("stream=true&starting_after=1.0", "starting_after"),
        ("stream=true&starting_after=%C2%B2", "starting_after"),
        ("stream=true&starting_after=99999", "starting_after"),
        (f"stream=true&starting_after={'9' * 5000}", "starting_after"),
    ],
)
async def test_bad_queries(query: str, param: str) -> None:
    async with open_client(behaviour=SAYS) as client:
        response_id = (await streamed(client))[0]["response"]["id"]
        refused = await client.get(f"/responses/{response_id}?{query}")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


async def test_only_what_was_created_as_a_stream_is_streamed_again() -> None:
    async with open_client(behaviour=SAYS) as client:
        queued = await begun(client)
        foreground = (await client.post("/responses", json={"input": "Hi"})).json()
        for response in (queued, foreground):
            refused = await client.get(f"/responses/{response['id']}?stream=true")
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stream")


async def test_events_that_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_serving.api.routes.responses.EventLog", lambda: EventLog(max_bytes=4000))
    async with open_client(behaviour=SAYS) as client:
        events = await streamed(client)  # who keeps up misses nothing
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        response_id = events[0]["response"]["id"]
        for query in ("", "&starting_after=0"):
            refused = await client.get(f"/responses/{response_id}?stream=true{query}")
            error = refused.json()["error"]
            assert (refused.status_code, error["param"]) == (400, "starting_after")
        first = int(error["message"].split("number ")[1].split()[0])
        assert 0 < first < len(events)
        assert await replayed(client, response_id, f"&starting_after={first - 1}") == events[first:]
        assert await now(client, response_id) == events[-1]["response"]
