"""DeepSeek's tokens around calls: V3 and R1 write arguments in a fence, V3.1 as they are.

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{…}<｜tool▁call▁end｜><｜tool▁calls▁end｜>
"""

from __future__ import annotations

import re

from llm_serving.chat.notations.marked_calls import MarkedStyle
from llm_serving.chat.notations.notation import Notation

_OPEN, _CLOSE = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
_SEPARATOR = "<｜tool▁sep｜>"
# Fenced or not.
_HEAD = re.compile(rf"\s*{_CALL}(?:function{_SEPARATOR}(\S+)\s*```json|(\S+?){_SEPARATOR})\s*")
_TAIL = re.compile(rf"\s*(?:```)?\s*{_CALL_END}")


def _plain(name: str, place: str) -> tuple[str, str]:
    return f"{_CALL}{name}{_SEPARATOR}", _CALL_END


def _fenced(name: str, place: str) -> tuple[str, str]:
    return f"{_CALL}function{_SEPARATOR}{name}\n```json\n", f"\n```{_CALL_END}"


def _notation(style: MarkedStyle, *signs: str) -> Notation:
    return Notation(
        (_OPEN, *signs),
        open=_OPEN,
        read=style.read,
        write=style.write,
        grammar=style.grammar,
        close=_CLOSE,
        marks=(_OPEN, _CLOSE, _CALL, _CALL_END, _SEPARATOR),
        whole=_CALL_END,
    )


DEEPSEEK_FENCED = _notation(MarkedStyle(_OPEN, _CLOSE, _HEAD, _TAIL, _fenced, "\n"), "```json")
DEEPSEEK = _notation(MarkedStyle(_OPEN, _CLOSE, _HEAD, _TAIL, _plain))
