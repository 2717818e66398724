"""What may be left out of a conversation."""

from __future__ import annotations

import pytest

from llm_serving.chat.messages import Message
from llm_serving.chat.turns import leavable

ROLES = {"s": "system", "u": "user", "a": "assistant", "t": "tool", "p": "user"}  # p: only a picture


@pytest.mark.parametrize(
    ("roles", "groups"),
    [
        ("u", []),
        ("su", []),
        ("sua", []),
        ("uau", ["ua"]),
        ("suauau", ["ua", "ua"]),
        ("auau", ["a", "ua"]),
        ("uuau", ["u", "ua"]),
        ("uatatau", ["uatata"]),
        ("uatat", ["at"]),
        ("uattatat", ["att", "at"]),
        ("uauatatat", ["ua", "at", "at"]),
        ("usausau", ["ua", "ua"]),
        ("atat", ["at"]),
        ("suatpatpat", ["atp", "atp"]),
        ("uatpauat", ["uatpa"]),
        ("uapau", ["ua", "pa"]),
        ("", []),
    ],
)
def test_turns_before_the_last_then_steps_of_it(roles: str, groups: list[str]) -> None:
    messages = [Message(role=ROLES[role], content="" if role == "p" else "x") for role in roles]
    found = leavable(messages)
    assert ["".join(roles[i] for i in group) for group in found] == groups
    places = [i for group in found for i in group]
    assert places == sorted(set(places))
