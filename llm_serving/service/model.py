"""What a loaded chat model is to the use-cases: an engine, and the text side that belongs to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llm_serving.engine.protocol import Engine


class PromptTokenizer(Protocol):
    """The part of a tokenizer that turns requests into prompts."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def eos_ids(self) -> Collection[int]: ...

    def guard(self, text: str) -> str:
        """Mark text of users, so that special tokens in it are read as plain text."""
        ...

    def encode_prompt(self, text: str, *, add_bos: bool = True) -> list[int]: ...


class PromptTemplate(Protocol):
    """A chat template: messages with `role` and string `content` in, prompt text out."""

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str: ...


@dataclass(frozen=True, slots=True)
class ChatModel:
    """Ready to answer. Without a template, the contents of the messages are the prompt."""

    name: str
    engine: Engine
    tokenizer: PromptTokenizer
    template: PromptTemplate | None = None
    fingerprint: str = ""
    created: int = 0  # unix seconds, when it was loaded
    details: Mapping[str, Any] = field(default_factory=dict)  # for `/models`
