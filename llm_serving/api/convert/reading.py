"""Events of one choice → what an answer is made of: thoughts, text, calls of functions, log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from llm_serving.api.convert.logprobs import ShownToken, VisibleTokens
from llm_serving.api.convert.reasoning import ReasoningReader
from llm_serving.api.convert.tool_calls import CallReader, ToolCall
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


class AnswerReader:
    """Of one choice, whose events it takes in order."""

    def __init__(
        self, generation: Generation, use: ToolUse, *, index: int = 0, include_reasoning: bool = True
    ) -> None:
        tokenizer, num_echoed = generation.model.tokenizer, len(generation.echo_of(index).text)
        names = frozenset(tool.name for tool in use.tools)
        has_thoughts = generation.reasoning is not Reasoning.NONE
        self._thoughts = ReasoningReader(generation.reasoning) if has_thoughts else None
        self._calls = CallReader(names, many=use.are_many) if names else None
        self._tokens = VisibleTokens(tokenizer, num_echoed) if generation.has_logprobs else None
        self._include_reasoning = include_reasoning
        self.is_older = use.is_older
        self.num_reasoning_tokens = 0
        self.prompt_logprobs: Sequence[TokenLogprobs] = ()  # see `TokenEvent`
        self.last: TokenEvent | None = None

    def feed(self, event: TokenEvent) -> Piece:
        is_last = event.finish_reason is not None
        thoughts, text = self._think(event, is_last)
        calls: list[ToolCall] = []
        if self._calls is not None:
            text, calls = self._calls.feed(text, is_last=is_last)
        if event.prompt_logprobs is not None:
            self.prompt_logprobs = event.prompt_logprobs
        tokens = self._tokens.take(event) if self._tokens is not None else []
        if is_last:
            self.last = event
        return Piece(thoughts, text, calls, tokens)

    def _think(self, event: TokenEvent, is_last: bool) -> tuple[str, str]:
        if (reader := self._thoughts) is None:
            return "", event.text
        was_thinking = reader.is_thinking
        thoughts, text = reader.feed(event.text, is_last=is_last)
        if was_thinking or reader.is_thinking or thoughts:
            self.num_reasoning_tokens = event.num_completion_tokens
        return thoughts if self._include_reasoning else "", text

    @property
    def has_called(self) -> bool:
        return self._calls is not None and self._calls.num_calls > 0

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
