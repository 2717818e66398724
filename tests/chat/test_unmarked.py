"""Calls without a notation's marks: read however they are cut; what is not quite one stays text, at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_server import open_client

from llm_serving.api.convert.tool_calls import CallReaders
from llm_serving.chat.notations import NOTATIONS
from llm_serving.chat.notations.hermes import HERMES
from llm_serving.chat.notations.llama import LLAMA
from llm_serving.chat.tools import Tool

TOOLS = {name: Tool(name, "", {}) for name in ("time", "weather", "get-time.2")}
ROME = ("weather", {"city": "Rome"})
BONN = ("time", {"city": "Bonn", "note": "a ``` and a } in it </tools>"})
PLAIN, SPREAD = (
    '{"name":"weather","arguments":{"city":"Rome"}}',
    json.dumps({"name": ROME[0], "arguments": ROME[1]}, indent=2),
)
DOUBLED = '{{"name": "weather", "arguments": {"city": "Rome"}}}'
SECOND = json.dumps({"name": BONN[0], "parameters": BONN[1]})
CALLS: dict[str, tuple[str, str, list[Any]]] = {
    "as Qwen 2.5 Coder": (f"```json\n{SPREAD}\n```", "", [ROME]),
    "no language": (f"```\n{PLAIN}\n```\n", "", [ROME]),
    "a language on a line of its own": (f"```\njson\n{PLAIN}\n```", "", [ROME]),
    "doubled": (f"```\n{DOUBLED}\n{DOUBLED}```", "", [ROME, ROME]),
    "no line": (f"```{PLAIN}```", "", [ROME]),
    "Gemma's language": (f"```tool_code\n{PLAIN}\n```", "", [ROME]),
    "two objects": (f"```json\n{SPREAD}\n{SECOND}\n```", "", [ROME, BONN]),
    "a list": (f"```json\n[{SPREAD},\n{SECOND}]\n```", "", [ROME, BONN]),
    "two fences": (f"```json\n{SPREAD}\n```\n\n```json\n{SECOND}\n```", "", [ROME, BONN]),
    "text before": (f"I will look.\n\n```json\n{PLAIN}\n```", "I will look.", [ROME]),
    "text behind": (f"```json\n{PLAIN}\n```\nThere.", "\nThere.", [ROME]),
    "code before": (f"```python\nx = {{}}\n```\n```json\n{SECOND}\n```", "```python\nx = {}\n```", [BONN]),
    "not closed": (f"```json\n{SECOND}\n", "", [BONN]),
    "in other tags": (f"<tools>\n{PLAIN}\n</tools>", "", [ROME]),
    "and in its own": (f"<tool_call>\n{PLAIN}\n</tool_call>\n```json\n{SECOND}\n```", "", [ROME, BONN]),
    "a name that begins another": (
        '```json\n{"name": "get-time.2", "arguments": {}}\n```',
        "",
        [("get-time.2", {})],
    ),
}
BARE: dict[str, tuple[str, str, list[Any]]] = {
    "bare": (SPREAD, "", [ROME]),
    "bare with blanks": (f"\n \n{SECOND}\n", "", [BONN]),
    "bare twice": (f"{PLAIN}\n{SECOND}", "", [ROME, BONN]),
    "bare with text behind": (f"{PLAIN} There.", " There.", [ROME]),
    "as Qwen's template tells of them": (DOUBLED, "", [ROME]),
    "half of that": (DOUBLED[:-1], "", [ROME]),
    "half of that in its own marks": (f"<tool_call>\n{DOUBLED[:-1]}\n</tool_call>", "", [ROME]),
    "so in its own marks": (f"<tool_call>\n{DOUBLED}\n</tool_call>", "", [ROME]),
    "behind other tags": (f"<tools></tools>\n```\n{DOUBLED}\n```", "<tools></tools>", [ROME]),
}
TEXTS = {
    "JSON": '{"answer": {"name": "weather", "arguments": {}}}',
    "JSON in a fence": '```json\n{"name": "Rome", "arguments": {}}\n```\nand more',
    "a function nobody has": '```json\n{"name": "weathers", "arguments": {}}\n```',
    "the beginning of a name": '```json\n{"name": "weathe", "arguments": {}}\n```',
    "no arguments": '```json\n{"name": "weather"}\n```',
    "more than arguments": '```json\n{"name": "weather", "arguments": {}, "note": "as in"}\n```',
    "both words for them": '```json\n{"name": "weather", "arguments": {}, "parameters": {}}\n```',
    "arguments that are none": '```json\n{"name": "weather", "arguments": "Rome"}\n```',
    "one that is one and one that is none": f"```json\n{PLAIN}\n5\n```",
    "not JSON": '```json\n{"name": "weather", "arguments": {city: 1}}\n```',
    "Python": 'Try:\n```python\nprint({"name": "weather", "arguments": {}})\n```\nIt works. ',
    "another language": f"```jsonl\n{PLAIN}\n```",
    "in mid text": f"An example is {PLAIN}.",
    "cut": f"```json\n{SPREAD[:-4]}",
    "an empty fence": "``````",
    "nothing": "",
    "code in a line": "a `x` b ``y`` c",
    "a list of nothing": "```json\n[]\n```",
    "blanks": "```json\n" + " " * 1000 + PLAIN + "\n```",
    "a bracket": "{",
    "definitions": '<tools>\n{"type": "function", "function": {"name": "weather"}}\n</tools>',
    "on a line of its own": f"It is:\n{PLAIN}\n",
    "doubled too often": '{{{"name": "weather", "arguments": {}}}}',
    "marks": "``` <tools> </tools> { [ `",
}
HIS = [
    (HERMES, {**CALLS, **BARE}),
    (LLAMA, {name: case for name, case in CALLS.items() if "own" not in name}),
]


def read(notation: Any, *pieces: str, many: bool = True) -> tuple[str, list[tuple[str, Any]]]:
    reader = CallReaders(TOOLS, (notation, *notation.also), many=many)
    shown, found = "", []
    for i, piece in enumerate(pieces):
        more, calls = reader.feed(piece, is_last=i + 1 == len(pieces))
        shown, found = shown + more, found + calls
    assert [call.place for call in found] == list(range(len(found)))
    return shown, [(call.name, json.loads(call.arguments)) for call in found]


@pytest.mark.parametrize("at", range(2))
def test_calls_are_read_wherever_they_are_cut(at: int) -> None:
    notation, cases = HIS[at]
    for name, (text, shown, calls) in cases.items():
        assert read(notation, *text) == (shown, calls), name
        for cut in range(len(text)):
            assert read(notation, text[:cut], text[cut:]) == (shown, calls), (name, cut)
        first = read(notation, text, many=False)[1]
        assert first == calls[:1], name


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_no_call_stays_text(name: str) -> None:
    text = TEXTS[name]
    for cut in range(len(text)):
        assert read(HERMES, text[:cut], text[cut:]) == (text, []), cut
    assert read(HERMES, *text) == (text, [])


def test_only_what_may_be_a_call_is_held_back() -> None:
    for front, held in (
        ('{"answ', ""),
        ("```python\n", ""),
        ("```json\n{\n", "```json\n{\n"),
        ('```json\n{"name": "Ro', ""),
        ('```json\n{"name": "wea', '```json\n{"name": "wea'),
        ('{"name": "weather", "arguments": {"city": "R', '{"name": "weather", "arguments": {"city": "R'),
    ):
        reader = CallReaders(TOOLS, (HERMES, *HERMES.also), many=True)
        shown = "".join(reader.feed(letter)[0] for letter in front)
        assert shown.strip() == front.removesuffix(held).strip()


def test_notations_whose_own_marks_are_others_read_nothing_else() -> None:
    assert [each for each in NOTATIONS if each.also] == [HERMES, LLAMA]


def functions(**more: Any) -> list[Any]:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    return [{"type": "function", "function": {"name": "weather", "parameters": parameters, **more}}]


@pytest.mark.anyio
async def test_over_http_it_is_a_call_unless_something_binds_the_answer() -> None:
    text = f"```json\n{PLAIN}\n```"
    asked = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 200, "temperature": 0}
    async with open_client(behaviour={"reply": text}) as client:

        async def message(**fields: Any) -> Any:
            response = await client.post("/chat/completions", json={**asked, **fields})
            return response.json()["choices"][0]["message"]

        assert (await message(tools=functions()))["tool_calls"][0]["function"]["name"] == "weather"
        assert await message() == {"role": "assistant", "content": text}
        assert (await message(tools=functions(strict=True)))["content"] == text
