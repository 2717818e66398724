"""A list of JSON, a call each, behind a mark, as many models write calls; most close it with another.

<TOOLCALL>[{"name": NAME, "arguments": {…}}, …]</TOOLCALL>
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llm_serving.chat.notations import lark
from llm_serving.chat.notations.json_calls import PLAIN, Shape, json_body, json_call, read_json
from llm_serving.chat.notations.notation import Call, Notation
from llm_serving.chat.tools import Calls, Tool


@dataclass(frozen=True, slots=True)
class ListStyle:
    """How a list is written: `begin`, calls with `between` them, `end`. Without `close` its end is all.

    begun: what of the list `open` holds already. has_lines: there is no list, each call has a line.
    """

    open: str
    close: str = ""
    shape: Shape = PLAIN
    begin: str = "["
    between: str = ", "
    end: str = "]"
    begun: str = ""
    has_lines: bool = False

    def read(self, text: str, tools: Mapping[str, Tool]) -> list[Call] | None:
        if not self.has_lines:
            return read_json(f"{self.begun}{text}", self.shape)
        found = [read_json(line, self.shape) for line in text.strip().split("\n") if line.strip()]
        calls = [each[0] for each in found if each is not None and len(each) == 1]
        return calls if calls and len(calls) == len(found) else None

    def write(self, calls: Sequence[Call]) -> str:
        texts = (json_call(call, self.shape, place) for place, call in enumerate(calls))
        return f"{self.open}{self.begin}{self.between.join(texts)}{self.end}{self.close}"

    def grammar(self, calls: Calls, marks: lark.Marks) -> str:
        more = f" ({lark.literal(self.between)} one)*" if calls.are_many else ""
        back = f" {lark.literal(self.close, marks)}" if self.close else ""
        lines = lark.answer(calls, self.open, marks)
        lines.append(f"rest: {lark.literal(self.begin)} one{more} {lark.literal(self.end)}{back}")
        return "\n".join([*lines, f"one: {json_body(calls.tools, self.shape)}"])


def list_notation(
    style: ListStyle,
    *,
    signs: tuple[str, ...] = (),
    others: tuple[str, ...] = (),
    are_marks: bool = True,
    short_ids: bool = False,
    text_is_thought: bool = False,
) -> Notation:
    """Its template holds both marks, or `signs`; `are_marks`: they are tokens."""
    marks = tuple(filter(None, (style.open, style.close)))
    return Notation(
        signs or marks,
        open=style.open,
        read=style.read,
        write=style.write,
        grammar=style.grammar,
        others=others,
        close=style.close,
        brackets="" if style.close else "[]{}",
        marks=marks if are_marks else (),
        whole=(style.end.strip() or "}") if style.close else None,
        short_ids=short_ids,
        text_is_thought=text_is_thought,
    )


COMMAND = list_notation(  # of Command R7B and Command A
    ListStyle(
        "<|START_ACTION|>",
        "<|END_ACTION|>",
        Shape("parameters", "tool_name", place="tool_call_id"),
        "[\n    ",
        ",\n    ",
        "\n]",
    ),
    text_is_thought=True,
)
APERTUS = list_notation(ListStyle("<|tools_prefix|>", "<|tools_suffix|>", Shape(name="")))
GRANITE3 = list_notation(ListStyle("<|tool_call|>"))
NEMOTRON_NANO = list_notation(ListStyle("<TOOLCALL>", "</TOOLCALL>"))
APRIEL = list_notation(ListStyle("<tool_calls>", "</tool_calls>"))
MINIMAX_M1 = list_notation(
    ListStyle("<tool_calls>", "</tool_calls>", begin="\n", between="\n", end="\n", has_lines=True),
    signs=("<tool_calls>\\n", "</tool_calls>", "<beginning_of_sentence>"),
)
COMMAND_R = list_notation(  # of Command R and Command R+, the first ones
    ListStyle(
        "Action:\n```json",
        "```",
        Shape("parameters", "tool_name"),
        "\n[\n    ",
        ",\n    ",
        "\n]\n",
    ),
    signs=("Action:\\n```json",),
    others=("Action: ```json", "Action:```json", "Action:\r\n```json"),
    are_marks=False,
)
FIREFUNCTION = list_notation(
    ListStyle("functools[", begin="", begun="["), signs=("functools[",), are_marks=False
)
