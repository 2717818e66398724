"""The Responses API, in process: items in, items out, kept and continued, and its events in their order."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_server import Client, kinds, open_client, typed_events

pytestmark = pytest.mark.anyio

REPLY = "Hello, world! 😀"
SAYS = {"reply": REPLY}
TOOL = {
    "type": "function",
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 5}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


async def created(client: Client, **fields: Any) -> dict[str, Any]:
    response = await client.post("/responses", json={"input": "Hi", **fields})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def streamed(client: Client, **fields: Any) -> list[dict[str, Any]]:
    response = await client.post("/v1/responses", json={"input": "Hi", "stream": True, **fields})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = typed_events(response.text)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


async def test_whole_answer() -> None:
    async with open_client(behaviour=SAYS) as client:
        answer = await created(client, instructions="Be kind.", metadata={"a": "b"}, temperature=0.5)
    (message,) = answer["output"]
    assert message["content"] == [{"type": "output_text", "text": REPLY, "annotations": [], "logprobs": []}]
    assert answer["id"].startswith("resp_")
    assert message["id"].startswith("msg_")
    assert (answer["object"], answer["status"], message["status"]) == ("response", "completed", "completed")
    assert (answer["model"], answer["metadata"], answer["temperature"]) == ("fake", {"a": "b"}, 0.5)
    usage = answer["usage"]
    assert usage["output_tokens"] == len(REPLY.encode()) + 1
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


async def test_what_the_limit_cuts_is_incomplete() -> None:
    async with open_client(behaviour=SAYS) as client:
        answer = await created(client, max_output_tokens=3)
        *_, last = await streamed(client, max_output_tokens=3)
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert answer["output"][0]["content"][0]["text"] == "Hel"
    assert answer["output"][0]["status"] == "incomplete"
    assert last["type"] == "response.incomplete"
    assert last["response"]["output"][0]["content"] == answer["output"][0]["content"]


async def test_events_of_a_message() -> None:
    async with open_client(behaviour=SAYS) as client:
        events = await streamed(client)
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert "".join(event.get("delta", "") for event in events) == REPLY
    response = events[-1]["response"]
    assert response["output"] == [events[-2]["item"]]
    assert response["output"][0]["content"][0]["text"] == REPLY
    item_ids = {event["item_id"] for event in events if "item_id" in event}
    assert item_ids == {response["output"][0]["id"]}
    assert {event["response"]["id"] for event in events if "response" in event} == {response["id"]}


async def test_events_of_calls() -> None:
    reply = f"Let me see.\n{CALL}\n{CALL}"
    async with open_client(behaviour={"reply": reply}) as client:
        events = await streamed(client, tools=[TOOL], max_output_tokens=500)
        whole = await created(client, tools=[TOOL], max_output_tokens=500)
    call = [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    assert kinds(events)[2:] == [
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done"),
        *call,
        *call,
        "completed",
    ]
    done = [event for event in events if event["type"] == "response.output_item.done"]
    assert [event["output_index"] for event in done] == [0, 1, 2]
    for output in ([event["item"] for event in done], events[-1]["response"]["output"], whole["output"]):
        message, first, second = output
        assert message["content"][0]["text"] == "Let me see."
        assert first["call_id"] != second["call_id"]
        for item in (first, second):
            assert (item["type"], item["name"], item["status"]) == ("function_call", "weather", "completed")
            assert json.loads(item["arguments"]) == {"city": "Rome"}


async def test_a_named_function_binds_the_answer() -> None:
    async with open_client(behaviour={"random": True}) as client:
        choice = {"type": "function", "name": "weather"}
        answer = await created(
            client, tools=[TOOL], tool_choice=choice, temperature=1.0, max_output_tokens=300
        )
    (item,) = answer["output"]
    assert item["name"] == "weather"
    assert set(json.loads(item["arguments"])) == {"city"}


async def test_text_of_a_schema() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": [5]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    text = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
    async with open_client(behaviour={"random": True}) as client:
        answer = await created(client, text=text, max_output_tokens=500)
        assert json.loads(answer["output"][0]["content"][0]["text"])["a"] == 5
        assert answer["text"]["format"] == text["format"]


async def test_logprobs() -> None:
    fields: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    async with open_client(behaviour=SAYS) as client:
        answer = await created(client, **fields)
        events = await streamed(client, **fields)
    whole = answer["output"][0]["content"][0]["logprobs"]
    assert b"".join(bytes(token["bytes"]) for token in whole) == REPLY.encode()
    assert {len(token["top_logprobs"]) for token in whole} == {2}
    pieces = [token for event in events for token in event.get("logprobs", []) if "delta" in event]
    assert pieces == whole


async def test_next_response_continues() -> None:
    async with open_client(behaviour=SAYS) as client:
        first = await created(client, input="One", instructions="Only now.")
        second = await created(client, input="Two", previous_response_id=first["id"])
        same = [
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": REPLY},
            {"role": "user", "content": "Two"},
        ]
        counted = await client.post("/responses/input_tokens", json={"input": same})
        again = await client.post(
            "/responses/input_tokens", json={"input": "Two", "previous_response_id": first["id"]}
        )
        streamed_second = (await streamed(client, previous_response_id=second["id"]))[-1]["response"]
        third = await created(client, input="Four", previous_response_id=streamed_second["id"])
    assert counted.json() == again.json()
    assert counted.json()["object"] == "response.input_tokens"
    assert second["usage"]["input_tokens"] == counted.json()["input_tokens"]
    assert second["previous_response_id"] == first["id"]
    assert third["usage"]["input_tokens"] > streamed_second["usage"]["input_tokens"]


async def test_calls_and_their_results_are_one_history() -> None:
    async with open_client(behaviour={"reply": CALL}) as client:
        first = await created(client, tools=[TOOL], max_output_tokens=500)
        call = first["output"][0]
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
        kept = await created(client, input=[result], previous_response_id=first["id"])
        question = {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
        sent = await created(client, input=[question, call, {"type": "reasoning", "summary": []}, result])
    assert kept["usage"]["input_tokens"] == sent["usage"]["input_tokens"]


async def test_kept_responses() -> None:
    async with open_client(behaviour=SAYS) as client:
        answer = await created(client, input=[{"role": "user", "content": str(i)} for i in range(5)])
        path = f"/v1/responses/{answer['id']}"
        assert (await client.get(path)).json() == answer
        listed = (await client.get(f"{path}/input_items?order=asc&limit=2")).json()
        assert [item["content"] for item in listed["data"]] == ["0", "1"]
        assert listed["has_more"]
        rest = (await client.get(f"{path}/input_items?order=asc&after={listed['last_id']}")).json()
        assert [item["content"] for item in rest["data"]] == ["2", "3", "4"]
        assert not rest["has_more"]
        latest = (await client.get(f"{path}/input_items")).json()
        assert [item["content"] for item in latest["data"]] == ["4", "3", "2", "1", "0"]
        for query in ("limit=0", "limit=x", "order=up", "after=none"):
            assert (await client.get(f"{path}/input_items?{query}")).status_code == 400
        assert (await client.get(f"{path}?stream=true")).status_code == 400
        assert (await client.post(f"{path}/cancel")).status_code == 400
        assert (await client.delete(path)).json() == {
            "id": answer["id"],
            "object": "response",
            "deleted": True,
        }
        for gone in (client.get(path), client.delete(path), client.post(f"{path}/cancel")):
            response = await gone
            assert response.status_code == 404
            assert response.json()["error"]["code"] == "response_not_found"


async def test_not_kept() -> None:
    async with open_client(behaviour=SAYS) as client:
        answer = await created(client, store=False)
        assert answer["store"] is False
        assert (await client.get(f"/responses/{answer['id']}")).status_code == 404


async def test_other_keys_find_nothing() -> None:
    async with open_client(api_key=("one", "two"), headers={"authorization": "Bearer one"}) as client:
        answer = await created(client)
        path = f"/responses/{answer['id']}"
        other = {"authorization": "Bearer two"}
        assert (await client.get(path)).status_code == 200
        assert (await client.get(path, headers=other)).status_code == 404
        assert (await client.get(path, headers={"authorization": ""})).status_code == 401
        body = {"input": "Hi", "previous_response_id": answer["id"]}
        assert (await client.post("/responses", json=body, headers=other)).status_code == 400


async def test_an_error_in_a_stream_is_told_in_events() -> None:
    async with open_client(behaviour={"fail_at_step": 5, "step_seconds": 0.005}) as client:
        events = await streamed(client)
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert events[-1]["response"]["status"] == "failed"
    assert events[-1]["response"]["error"] == {"code": events[-2]["code"], "message": events[-2]["message"]}


async def test_decoding_fields_reach_the_model() -> None:
    async with open_client(behaviour={"random": True}) as client:
        fields: dict[str, Any] = {"temperature": 1.0, "max_output_tokens": 20}
        texts = [
            (await created(client, **fields, seed=seed))["output"][0]["content"][0]["text"]
            for seed in (1, 1, 2)
        ]
        bound = await created(client, choice=["abc"], **fields)
    assert texts[0] == texts[1] != texts[2]
    assert bound["output"][0]["content"][0]["text"] == "abc"
