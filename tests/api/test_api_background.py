"""Responses that are made in the background: their states, their end before its time, and their bounds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from background_client import BODY, ENDLESS, REPLY, SAYS, SLOW, at_work, begun, now, until_idle, until_is
from fake_server import kinds, open_client, typed_events
from patience import Gate, until

pytestmark = pytest.mark.anyio

KEYS: dict[str, Any] = {"api_key": ("one", "two"), "headers": {"authorization": "Bearer one"}}
OTHER = {"authorization": "Bearer two"}


async def test_from_queued_to_completed() -> None:
    gate = Gate()
    gate.shut()
    async with open_client(behaviour={"reply": REPLY, "before_step": gate.pass_}) as client:
        queued = await begun(client, ignore_eos=False, metadata={"a": "b"})
        assert (queued["status"], queued["background"], queued["output"]) == ("queued", True, [])
        assert queued["usage"] is None
        gate.open(1)
        begun_now = await until_is(client, queued["id"], "in_progress")
        assert begun_now["output"] == []
        gate.open()
        done = await until_is(client, queued["id"], "completed")
        foreground = (await client.post("/responses", json={"input": "Hi"})).json()
        items = (await client.get(f"/responses/{queued['id']}/input_items")).json()
    assert done["output"][0]["content"][0]["text"] == REPLY
    assert done["usage"]["output_tokens"] == foreground["usage"]["output_tokens"]
    assert done.keys() == queued.keys() == foreground.keys()
    unchanged = {"status", "output", "usage"} ^ done.keys()
    assert {name: done[name] for name in unchanged} == {name: queued[name] for name in unchanged}
    assert items["data"][0]["content"] == [{"type": "input_text", "text": "Hi"}]
    assert not foreground["background"]


async def test_what_the_limit_cuts_is_incomplete_and_can_be_continued() -> None:
    async with open_client(behaviour=SAYS) as client:
        queued = await begun(client, max_output_tokens=3)
        done = await until_is(client, queued["id"], "incomplete")
        assert done["incomplete_details"] == {"reason": "max_output_tokens"}
        again = await begun(client, max_output_tokens=3, previous_response_id=queued["id"])
        done_again = await until_is(client, again["id"], "incomplete")
    assert done_again["usage"]["input_tokens"] > done["usage"]["input_tokens"]


async def test_cancelling_takes_a_step() -> None:
    async with open_client(behaviour=SLOW) as client:
        response_id = (await begun(client))["id"]
        await until(lambda: client.stats.num_generated_tokens >= 5)
        response = await client.post(f"/responses/{response_id}/cancel")
        num_tokens = client.stats.num_generated_tokens
        await until_idle(client)
        assert client.stats.num_generated_tokens <= num_tokens + 1  # of the step that was under way
        assert client.stats.num_free_blocks == client.stats.num_blocks
        cancelled = response.json()
        assert (response.status_code, cancelled["status"], cancelled["error"]) == (200, "cancelled", None)
        (item,) = cancelled["output"]
        assert item["status"] == "incomplete"
        assert len(item["content"][0]["text"]) >= 3
        assert cancelled["usage"]["output_tokens"] >= 5
        again = await client.post(f"/responses/{response_id}/cancel")
        assert (again.status_code, again.json()) == (200, cancelled)
        assert await now(client, response_id) == cancelled


async def test_cancelled_at_once() -> None:
    gate = Gate()
    async with open_client(behaviour={"random": True, "before_step": gate.pass_}) as client:
        for fields in ({}, {"stream": True}):
            gate.shut()
            if fields:
                reading = asyncio.create_task(client.post("/responses", json={**ENDLESS, **fields}))
                (response_id,) = await at_work(client)
            else:
                response_id = (await begun(client))["id"]
            cancelled = (await client.post(f"/responses/{response_id}/cancel")).json()
            assert (cancelled["status"], cancelled["output"]) == ("cancelled", [])
            gate.open()
            await until_idle(client)
        assert kinds(typed_events((await reading).text)) == ["created", "queued", "cancelled"]


async def test_what_is_complete_cannot_be_cancelled_any_more() -> None:
    async with open_client(behaviour=SAYS) as client:
        queued = await begun(client, ignore_eos=False)
        done = await until_is(client, queued["id"], "completed")
        assert (await client.post(f"/responses/{queued['id']}/cancel")).json() == done
        foreground = (await client.post("/responses", json={"input": "Hi"})).json()
        refused = await client.post(f"/responses/{foreground['id']}/cancel")
        assert refused.status_code == 400
        assert "background" in refused.json()["error"]["message"]


async def test_deleting_cancels() -> None:
    async with open_client(behaviour=SLOW) as client:
        response_id = (await begun(client))["id"]
        await until(lambda: client.stats.num_running)
        assert (await client.delete(f"/responses/{response_id}")).json()["deleted"]
        assert (await client.get(f"/responses/{response_id}")).status_code == 404
        await until_idle(client)
        assert client.stats.num_generated_tokens < 1000
        assert client.services.responses._num_bytes == 0


async def test_what_is_not_finished_cannot_be_continued() -> None:
    async with open_client(behaviour=SLOW) as client:
        response_id = (await begun(client))["id"]
        for _ in range(2):
            body = {"input": "And?", "previous_response_id": response_id}
            refused = await client.post("/responses", json=body)
            error = refused.json()["error"]
            assert (refused.status_code, error["param"]) == (400, "previous_response_id")
            status = (await now(client, response_id))["status"].replace("_", " ")
            assert f"is {status}" in error["message"]
            await client.post(f"/responses/{response_id}/cancel")
        assert status == "cancelled"


async def test_without_a_store_there_is_no_background() -> None:
    async with open_client(behaviour=SAYS) as client:
        refused = await client.post("/responses", json={**BODY, "store": False})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "background")
        assert (await client.post("/responses", json={"input": "Hi", "background": False})).json()[
            "status"
        ] == "completed"


async def test_other_keys_find_nothing() -> None:
    async with open_client(behaviour=SLOW, **KEYS) as client:
        response_id = (await begun(client, stream=False))["id"]
        path = f"/responses/{response_id}"
        for gone in (
            client.get(path, headers=OTHER),
            client.get(f"{path}?stream=true", headers=OTHER),
            client.post(f"{path}/cancel", headers=OTHER),
            client.delete(path, headers=OTHER),
        ):
            assert (await gone).status_code == 404
        assert (await now(client, response_id))["status"] in ("queued", "in_progress")


async def test_an_engine_that_dies_fails_all() -> None:
    gate = Gate()
    gate.shut()
    behaviour = {"random": True, "before_step": gate.pass_, "fail_at_step": 10}
    async with open_client(behaviour=behaviour) as client:
        stream = asyncio.create_task(client.post("/responses", json={**ENDLESS, "stream": True}))
        await at_work(client)
        ids = [(await begun(client))["id"] for _ in range(3)]
        gate.open()
        for response_id in ids:
            failed = await until_is(client, response_id, "failed")
            assert failed["error"]["code"] == "engine_dead"
            assert "RuntimeError" in failed["error"]["message"]
        events = typed_events((await stream).text)
        assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
        assert events[-1]["response"]["error"]["code"] == "engine_dead"
        assert not client.services.responses._at_work
        assert (await client.post("/responses", json=BODY)).status_code == 503


async def test_an_unknown_error_says_nothing_of_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object) -> None:
        raise ValueError("internal detail")

    async with open_client(behaviour=SLOW) as client:
        queued = await begun(client)
        monkeypatch.setattr("llm_serving.api.convert.responses.ResponseStream.events", broken)
        failed = await until_is(client, queued["id"], "failed")
        await until_idle(client)
    assert failed["error"]["code"] == "internal_error"
    assert queued["id"] in failed["error"]["message"]
    assert "internal detail" not in str(failed)
    assert "internal detail" in caplog.text


async def test_a_full_queue_keeps_nothing() -> None:
    async with open_client(behaviour=SLOW, max_concurrency=1, max_queue=0) as client:
        first = await begun(client)
        await until(lambda: client.stats.num_running)
        for fields in ({}, {"background": False}, {"stream": True}):
            refused = await client.post("/responses", json={**ENDLESS, **fields})
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
        assert len(client.services.responses._at_work) == 1
        await client.post(f"/responses/{first['id']}/cancel")
        await until_idle(client)
        await begun(client)


async def test_a_key_has_half_of_the_places_for_the_background() -> None:
    async with open_client(behaviour=SLOW, max_concurrency=4, max_queue=1, **KEYS) as client:
        for _ in range(2):
            await begun(client)
        refused = await client.post("/responses", json=ENDLESS)
        assert refused.status_code == 429
        assert "background" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) >= 1
        while client.stats.num_running + client.stats.num_waiting > 2:  # what was refused leaves no trace
            await asyncio.sleep(0.001)
        other = await client.post("/responses", json=ENDLESS, headers=OTHER)
        assert other.status_code == 200
        assert (
            await client.post("/responses", json={"input": "Hi", "max_output_tokens": 1})
        ).status_code == 200


async def test_a_stop_lets_it_finish() -> None:
    gate = Gate()
    gate.shut()
    async with open_client(behaviour={"reply": "x" * 50, "before_step": gate.pass_}, drain_s=30) as client:
        stream = asyncio.create_task(client.post("/responses", json={**BODY, "stream": True}))
        response_id = (await begun(client, ignore_eos=False))["id"]
        await at_work(client, 2)
        client.services.registry.begin_close()
        assert (await client.post("/responses", json=BODY)).status_code == 503
        gate.open()
        await client.services.registry.close()
        done = await until_is(client, response_id, "completed")
        assert done["output"][0]["content"][0]["text"] == "x" * 50
        assert typed_events((await stream).text)[-1]["type"] == "response.completed"


async def test_what_still_runs_at_the_deadline_has_failed() -> None:
    async with open_client(behaviour=SLOW, drain_s=0.05) as client:
        response_id = (await begun(client))["id"]
        await until(lambda: client.stats.num_running)
        await client.services.registry.close()
        failed = await until_is(client, response_id, "failed")
        assert failed["error"]["code"] == "cancelled"
    assert not client.services.responses._at_work


async def test_the_end_of_the_server_leaves_no_task() -> None:
    async with open_client(behaviour=SLOW) as client:
        for _ in range(3):
            await begun(client)
    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]
    assert not [name for name in names if "Background" in name]


async def test_it_is_measured_as_others_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with open_client(behaviour=SAYS) as client:
        queued = await begun(client, ignore_eos=False)
        await until_is(client, queued["id"], "completed")
        text = (await client.get("/metrics")).text
    assert 'llm_serving_sequence_seconds_count{model="fake"} 1.0\n' in text
    assert f"response {queued['id']} is completed: model=fake prompt=" in caplog.text


async def test_functions_and_thoughts_come_as_in_the_foreground() -> None:
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    tools = [{"type": "function", "name": "weather", "parameters": {"type": "object"}}]
    async with open_client(behaviour={"reply": f"Let me see.\n{call}"}) as client:
        queued = await begun(client, tools=tools, ignore_eos=False)
        done = await until_is(client, queued["id"], "completed")
        message, called = done["output"]
        assert (message["content"][0]["text"], called["name"]) == ("Let me see.", "weather")
        result = {"type": "function_call_output", "call_id": called["call_id"], "output": "sunny"}
        body = {"input": [result], "previous_response_id": done["id"], "max_output_tokens": 1}
        assert (await client.post("/responses", json=body)).status_code == 200
