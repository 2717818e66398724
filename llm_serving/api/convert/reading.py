"""Events of one choice → what an answer is made of: thoughts, text, calls of functions, log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from llm_serving.api.convert.framed import Unframer
from llm_serving.api.convert.harmony import HarmonyReader
from llm_serving.api.convert.logprobs import ShownToken, VisibleTokens
from llm_serving.api.convert.reasoning import ReasoningReader
from llm_serving.api.convert.tagged import TaggedReader
from llm_serving.api.convert.tool_calls import CallReaders, ToolCall
from llm_serving.api.convert.tools import ToolUse
from llm_serving.chat.reasoning import Reasoning
from llm_serving.engine.request import FinishReason, TokenEvent, TokenLogprobs
from llm_serving.service.generation import Generation


class Piece(NamedTuple):
    """What one event adds."""

    thoughts: str
    text: str
    calls: list[ToolCall]  # each whole
    tokens: list[ShownToken]  # if log-probabilities were asked for


class TextReader(Protocol):
    """Tells apart what the text of one choice is made of, by the format of its model."""

    @property
    def is_thinking(self) -> bool: ...

    @property
    def num_calls(self) -> int: ...

    def feed(self, text: str, *, is_last: bool = False) -> tuple[str, str, list[ToolCall]]:
        """(thoughts, text to show, whole calls). Behind the last text nothing is held back."""
        ...


def text_reader(generation: Generation, use: ToolUse) -> TextReader:
    """By how the answers of `generation` are written."""
    tools = {tool.name: tool for tool in use.tools}
    notation = generation.model.teaching.notation
    is_bound = generation.options.form is not None  # so what looks like a call is what it must look like
    marks = [notation, *(() if is_bound else notation.also)]
    calls = CallReaders(tools, marks, many=use.are_many) if tools else None
    thoughts, reasoning = generation.thoughts, generation.reasoning
    of_model = generation.model.thoughts
    frames = of_model.frames if of_model is not None else None
    unframer = Unframer(frames, continues=thoughts is None) if frames is not None else None
    if thoughts is None:
        return TaggedReader(None, None, calls, unframer)
    if thoughts.has_channels:
        return HarmonyReader(frozenset(tools), many=use.are_many)
    reader = None if reasoning is Reasoning.NONE else ReasoningReader(thoughts, reasoning)
    return TaggedReader(reader, thoughts.around_answer, calls, unframer)


class AnswerReader:
    """Of one choice, whose events it takes in order."""

    def __init__(
        self, generation: Generation, use: ToolUse, *, index: int = 0, include_reasoning: bool = True
    ) -> None:
        tokenizer, num_echoed = generation.model.tokenizer, len(generation.echo_of(index).text)
        self._text = text_reader(generation, use)
        self._tokens = VisibleTokens(tokenizer, num_echoed) if generation.has_logprobs else None
        self._include_reasoning = include_reasoning
        self.is_older = use.is_older
        self.num_reasoning_tokens = 0
        self.prompt_logprobs: Sequence[TokenLogprobs] = ()  # see `TokenEvent`
        self.last: TokenEvent | None = None

    def feed(self, event: TokenEvent) -> Piece:
        is_last = event.finish_reason is not None
        was_thinking = self._text.is_thinking
        thoughts, text, calls = self._text.feed(event.text, is_last=is_last)
        if was_thinking or self._text.is_thinking or thoughts:
            self.num_reasoning_tokens = event.num_completion_tokens
        if not self._include_reasoning:
            thoughts = ""
        if event.prompt_logprobs is not None:
            self.prompt_logprobs = event.prompt_logprobs
        tokens = self._tokens.take(event) if self._tokens is not None else []
        if is_last:
            self.last = event
        return Piece(thoughts, text, calls, tokens)

    @property
    def has_called(self) -> bool:
        return self._text.num_calls > 0

    @property
    def finish_reason(self) -> str:
        """What the API calls it, behind the last event; an answer that ends with calls ended for them."""
        reason = self.last.finish_reason if self.last is not None else None
        if reason in (None, FinishReason.STOP) and self.has_called:
            return "function_call" if self.is_older else "tool_calls"
        return reason.value if reason else "stop"


def readers_of(generation: Generation, use: ToolUse, *, include_reasoning: bool = True) -> list[AnswerReader]:
    """One for each choice."""
    return [
        AnswerReader(generation, use, index=index, include_reasoning=include_reasoning)
        for index in range(generation.num_choices)
    ]
