"""Special tokens that an answer is told apart by, so they are text in it: of thoughts, calls, messages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

_HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>")  # of gpt-oss
_HARMONY_ENDS = ("<|return|>", "<|call|>")
# Each group counts where a vocabulary has all of it.
_GROUPS = (
    _HARMONY,
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<thought>", "</thought>"),
    ("<|channel>", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("[BEGIN FINAL RESPONSE]", "[END FINAL RESPONSE]"),
    ("<|open|>", "<|close|>", "<|sep|>"),
    ("<|start|>", "<|message|>", "<|eom|>"),
    ("<|begin|>", "<|content|>", "<|think|>", "<|end|>"),
    ("<mm:think>", "</mm:think>"),
    ("<think:opensource>", "</think:opensource>"),
    # Around calls of functions; see `chat/notations/`.
    ("<tool_call>", "</tool_call>"),
    ("<|tool_call_start|>", "<|tool_call_end|>"),
    ("<|tool_call>", "<tool_call|>", '<|"|>'),
    (
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
    ),
    (
        *("<|tool_calls|>", "<|calls|>"),
        *(f"<|tool_call:{part}|>" for part in ("begin", "name", "args", "end")),
    ),
    ("<seed:tool_call>", "</seed:tool_call>"),
    ("]<]minimax[>[",),
    tuple(
        f"<{name}:opensource>"
        for name in (
            *("tool_calls", "tool_call", "arg_key", "arg_value", "tool_sep"),
            *("/tool_calls", "/tool_call", "/arg_key", "/arg_value"),
        )
    ),
    ("<|function_call|>",),
    ("<|role_sep|>", "<|message_sep|>"),
    ("<minimax:tool_call>", "</minimax:tool_call>"),
    ("<|START_ACTION|>", "<|END_ACTION|>"),
    ("<|tools_prefix|>", "<|tools_suffix|>"),
    ("<TOOLCALL>", "</TOOLCALL>"),
    ("<tool_calls>", "</tool_calls>"),
    ("<|tool_call|>",),
    ("[TOOL_CALLS]",),
    ("[ARGS]",),
    ("[CALL_ID]",),
    (
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁sep｜>",
    ),
)
_NAMES = frozenset(token for group in _GROUPS for token in group)
_OF_HARMONY = frozenset((*_HARMONY, *_HARMONY_ENDS))


class HarmonyIds(NamedTuple):
    """The marks of messages, and what ends an answer."""

    marks: frozenset[int]
    ends: frozenset[int]


def told_tokens(tokens: Collection[str]) -> frozenset[str]:
    """Those of a vocabulary that are text in answers even if they are special."""
    known = _NAMES.intersection(tokens)
    return frozenset(token for group in _GROUPS if known.issuperset(group) for token in group)


def harmony_ids(tokens: Sequence[str]) -> HarmonyIds:
    """By name, whatever else is said of these tokens. Empty where a vocabulary knows no harmony."""
    ids = {token: i for i, token in enumerate(tokens) if token in _OF_HARMONY}
    if not ids.keys() >= set(_HARMONY):
        return HarmonyIds(frozenset(), frozenset())
    ends = frozenset(ids.pop(token) for token in _HARMONY_ENDS if token in ids)
    return HarmonyIds(frozenset(ids.values()), ends)
