"""Ids of calls in histories, in the form that a model has learnt."""

from __future__ import annotations

from typing import Any

from llm_serving.chat.call_ids import with_ids
from llm_serving.chat.messages import Message
from llm_serving.chat.notations.kimi import call_id


def called(*calls: tuple[str, str]) -> Message:
    told: list[dict[str, Any]] = [
        {"type": "function", "id": client, "function": {"name": name, "arguments": {}}}
        for client, name in calls
    ]
    return Message(role="assistant", content="", tool_calls=told)


def result(client: str, content: str) -> Message:
    return Message(role="tool", content=content, tool_call_id=client)


def test_ids_hold_names_and_places_and_results_follow_their_calls() -> None:
    history = [
        Message(role="user", content="Hi"),
        called(("a", "weather"), ("b", "now")),
        result("b", "noon"),
        result("a", "fine"),
        called(("a", "now")),  # clients may begin anew with their ids
        result("a", "one"),
        Message(role="assistant", content="Bye"),
    ]
    told = with_ids(history, call_id)
    assert [call["id"] for m in told for call in m.get("tool_calls", ())] == [
        "functions.weather:0", "functions.now:1", "functions.now:2",
    ]  # fmt: skip
    assert [(m["tool_call_id"], m["content"]) for m in told if m["role"] == "tool"] == [
        ("functions.weather:0", "fine"), ("functions.now:1", "noon"), ("functions.now:2", "one"),
    ]  # fmt: skip
    assert history[2]["tool_call_id"] == "b"  # the client's messages are as they were
    assert (told[0], told[-1]) == (history[0], history[-1])


def test_results_of_nobody_are_kept() -> None:
    history = [called(("a", "now")), result("z", "1"), result("y", "2")]
    assert [m["content"] for m in with_ids(history, call_id)[1:]] == ["1", "2"]
    plain = Message(role="tool", content="3")
    assert with_ids([called(("a", "now")), plain], call_id)[1]["tool_call_id"] == "functions.now:0"
    assert with_ids([plain], call_id) == [plain]
