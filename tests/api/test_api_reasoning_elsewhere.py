"""Thoughts in `/responses`, Anthropic's messages and Ollama's answers, in process."""

from __future__ import annotations

import json

import pytest
from fake_server import kinds, open_client, typed_events
from thinker import ASKED, OPENED, thinker

from llm_serving.chat.reasoning import Effort, nearest_effort

pytestmark = pytest.mark.anyio


async def test_responses_have_items_of_reasoning() -> None:
    async with open_client(thinker()) as client:
        body = (await client.post("/responses", json={"input": "Hi", "reasoning": {"effort": "low"}})).json()
        assert [item["type"] for item in body["output"]] == ["reasoning", "message"]
        thoughts, message = body["output"]
        assert thoughts["content"] == [{"type": "reasoning_text", "text": "Hm, well."}]
        assert thoughts["summary"] == []
        assert thoughts["id"].startswith("rs_")
        assert message["content"][0]["text"] == "Hello <think>."
        assert body["reasoning"] == {"effort": "low", "summary": None}
        assert body["usage"]["output_tokens_details"]["reasoning_tokens"] > 10
        # It goes on with what was thought.
        more = {"input": "x", "previous_response_id": body["id"], "max_output_tokens": 1}
        counted = (await client.post("/responses/input_tokens", json=more)).json()["input_tokens"]
        plain = [{"content": "Hi"}, {"role": "assistant", "content": "Hello <think>."}, {"content": "x"}]
        fewer = (await client.post("/chat/completions/input_tokens", json={"messages": plain})).json()
        assert counted - fewer["input_tokens"] == len("Hm, well.")
        echoed = {"input": [{"content": "Hi"}, *body["output"], {"content": "x"}]}
        assert (await client.post("/responses/input_tokens", json=echoed)).json()["input_tokens"] == counted


async def test_a_stream_of_a_response_tells_of_reasoning_first() -> None:
    async with open_client(thinker()) as client:
        events = typed_events((await client.post("/responses", json={"input": "Hi", "stream": True})).text)
    assert kinds(events) == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done",
        "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    deltas = "".join(e["delta"] for e in events if e["type"] == "response.reasoning_text.delta")
    assert deltas == "Hm, well."
    assert {e["output_index"] for e in events if "reasoning_text" in e["type"]} == {0}
    assert {e["output_index"] for e in events if "output_text" in e["type"]} == {1}


MESSAGE = {**ASKED, "thinking": {"type": "enabled", "budget_tokens": 1024}}


async def test_messages_have_blocks_of_thinking() -> None:
    async with open_client(thinker()) as client:
        body = (await client.post("/messages", json=MESSAGE)).json()
        assert body["content"] == [
            {"type": "thinking", "thinking": "Hm, well.", "signature": ""},
            {"type": "text", "text": "Hello <think>."},
        ]
        events = typed_events((await client.post("/messages", json={**MESSAGE, "stream": True})).text)
        assert kinds(events) == [
            "message_start",
            "content_block_start", "content_block_delta", "content_block_stop",
            "content_block_start", "content_block_delta", "content_block_stop",
            "message_delta", "message_stop",
        ]  # fmt: skip
        deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
        assert "".join(delta.get("thinking", "") for delta in deltas) == "Hm, well."
        assert [delta for delta in deltas if "signature" in delta] == [
            {"type": "signature_delta", "signature": ""}
        ]
        echoed = [*ASKED["messages"], {"role": "assistant", "content": body["content"]}, ASKED["messages"][0]]
        counts = [
            (
                await client.post("/messages/count_tokens", json={"messages": [echoed[0], turn, echoed[2]]})
            ).json()
            for turn in (echoed[1], {**echoed[1], "content": body["content"][1:]})
        ]
        assert counts[0]["input_tokens"] - counts[1]["input_tokens"] == len("Hm, well.")


async def test_a_message_may_be_given_no_time_to_think() -> None:
    async with open_client(thinker(OPENED, "Hello")) as client:
        body = (
            await client.post(
                "/messages", json={**MESSAGE, "thinking": {"type": "adaptive", "budget_tokens": 2}}
            )
        ).json()
        assert [block.get("thinking") or block["text"] for block in body["content"]] == ["He", "Hello"]
        off = (await client.post("/messages", json={**MESSAGE, "thinking": {"type": "disabled"}})).json()
        assert off["content"] == [{"type": "text", "text": "Hello"}]


async def test_thoughts_of_a_message_may_be_left_out() -> None:
    thinking = {"type": "enabled", "display": "omitted"}
    async with open_client(thinker()) as client:
        body = (await client.post("/messages", json={**ASKED, "thinking": thinking})).json()
        sent = {**ASKED, "thinking": thinking, "stream": True}
        events = typed_events((await client.post("/messages", json=sent)).text)
    assert body["content"] == [{"type": "text", "text": "Hello <think>."}]
    assert [event["content_block"]["type"] for event in events if "content_block" in event] == ["text"]


async def test_the_effort_of_a_message_is_told_to_a_model_that_thinks() -> None:
    shows = "{{ reasoning_effort }};{% for m in messages %}{{ m.content }}{% endfor %}</think><think>"
    async with open_client(thinker(shows)) as client:
        counts = []
        for fields in ({"output_config": {"effort": "low"}}, {"thinking": {"type": "adaptive"}}):
            answer = await client.post("/messages/count_tokens", json={**ASKED, **fields})
            counts.append(answer.json()["input_tokens"])
    assert counts[1] - counts[0] == len("medium") - len("low")


@pytest.mark.parametrize(("effort", "known"), [("minimal", "low"), ("max", "high"), ("high", "high")])
def test_a_wish_that_a_model_does_not_know_is_the_nearest_that_it_does(effort: Effort, known: str) -> None:
    assert nearest_effort(effort, "<|channel|>analysis <|channel|>final") == known
    assert nearest_effort(effort, "<think></think>") == effort
    assert nearest_effort(effort, "") is None


async def test_ollamas_answers_tell_of_thinking() -> None:
    async with open_client(thinker()) as client:
        whole = (await client.post("/api/chat", json={**ASKED, "think": True, "stream": False})).json()
        message = {"role": "assistant", "content": "Hello <think>.", "thinking": "Hm, well."}
        assert whole["message"] == message
        lines = (await client.post("/api/chat", json={**ASKED, "think": "low"})).text.splitlines()
        pieces = [json.loads(line)["message"] for line in lines]
        assert "".join(piece.get("thinking", "") for piece in pieces) == "Hm, well."
        assert "".join(piece["content"] for piece in pieces) == "Hello <think>."
        told = (await client.post("/api/generate", json={"prompt": "Hi", "stream": False})).json()
        assert (told["thinking"], told["response"]) == ("Hm, well.", "Hello <think>.")
        shown = (await client.post("/api/show", json={"model": "fake"})).json()
        assert "thinking" in shown["capabilities"]
        counts = []
        for turn in (message, {**message, "thinking": ""}):
            body = {"messages": [*ASKED["messages"], turn, *ASKED["messages"]], "stream": False}
            counts.append((await client.post("/api/chat", json=body)).json()["prompt_eval_count"])
        assert counts[0] - counts[1] == len("Hm, well.")
    async with open_client(thinker(OPENED, "Hi")) as client:
        off = (await client.post("/api/chat", json={**ASKED, "think": False, "stream": False})).json()
        assert off["message"] == {"role": "assistant", "content": "Hi"}
        begun = {"messages": [*ASKED["messages"], {"role": "assistant", "content": "So"}], "stream": False}
        told = (await client.post("/api/chat", json=begun)).json()
        assert told["message"] == {"role": "assistant", "content": "Hi"}


async def test_thoughts_are_not_asked_for_behind_the_beginning_of_an_answer() -> None:
    begun = [*ASKED["messages"], {"role": "assistant", "content": "So"}]
    async with open_client(thinker()) as client:
        for path, name, fields in (
            (
                "/chat/completions",
                "reasoning_effort",
                {"reasoning_effort": "low", "continue_final_message": True},
            ),
            (
                "/apply-template",
                "reasoning_effort",
                {"reasoning_effort": "low", "continue_final_message": True},
            ),
            ("/messages", "thinking", {"thinking": {"type": "enabled"}, "max_tokens": 5}),
            ("/api/chat", "think", {"think": True}),
        ):
            response = await client.post(path, json={"messages": begun, **fields})
            assert response.status_code == 400
            error = response.json()["error"]
            message = error if isinstance(error, str) else error["message"]
            assert message.startswith(f"'{name}' asks for thoughts")
            assert ("continue_final_message" in message) == ("continue_final_message" in fields)
        off = {"thinking": {"type": "disabled"}, "max_tokens": 5}
        assert (await client.post("/messages", json={"messages": begun, **off})).status_code == 200
