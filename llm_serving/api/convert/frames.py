"""Streamed chunks from byte templates: of a token, only the text is encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from llm_serving.api.convert.answer import Head, usage_fields
from llm_serving.api.convert.logprobs import (
    ShownToken,
    chat_logprobs,
    completion_logprobs,
    echo_logprobs,
)
from llm_serving.api.convert.reading import AnswerReader, readers_of
from llm_serving.api.convert.tool_calls import ToolCall, calls_fields
from llm_serving.api.convert.tools import NO_TOOLS, ToolUse
from llm_serving.api.errors import error_body
from llm_serving.api.schemas.sampling import ToldUsage
from llm_serving.engine.request import TokenLogprobs
from llm_serving.service.generation import Batch, Generation

DONE = b"data: [DONE]\n\n"

_TEXT = "\x00text\x00"  # stands where the text goes, while a template is cut
_REASON = "\x00reason\x00"
_NO_USAGE = b',"usage":null}\n\n'  # ends a chunk; no text has it, in which quotes are escaped
_NO_LOGPROBS = b'"logprobs":null'  # behind the text in every template

ToLogprobs = Callable[[Sequence[ShownToken]], dict[str, Any]]
ToEcho = Callable[[int, Sequence[TokenLogprobs]], dict[str, Any]]  # of a choice, by its index


class ChunkFrames:
    """Chunks of one response. A `choice` is the JSON of one choice with `_TEXT` and `_REASON` in it.

    Order: opening, text …, the last of each choice with its reason, usage if asked for.
    """

    def __init__(
        self,
        head: Head,
        kind: str,
        generation: Generation,
        *,
        text: dict[str, Any],
        last: dict[str, Any],
        firsts: Sequence[dict[str, Any]] = (),
        to_logprobs: ToLogprobs,
        to_echo: ToEcho | None = None,
        readers: Sequence[AnswerReader],
        usage: ToldUsage = ToldUsage.NEVER,
    ) -> None:
        num_choices = generation.num_choices
        self._fields = head.fields(kind)
        self._usage = usage
        self._generation = generation
        self._openings = [self._frame(first, i) for i, first in enumerate(firsts)]
        self._texts = [_cut(self._frame(text, i), _TEXT) for i in range(num_choices)]
        self._lasts = [_cut(self._frame(last, i), _REASON) for i in range(num_choices)]
        self._to_logprobs = to_logprobs
        self._to_echo = to_echo
        self._readers = readers

    def opening(self) -> bytes:
        return b"".join(self._openings)

    def batch(self, batch: Batch) -> bytes:
        frames: list[bytes] = []
        for index, event in batch:
            before, after = self._texts[index]
            reader = self._readers[index]
            thoughts, text, calls, tokens = reader.feed(event)
            if self._to_echo is not None and event.prompt_logprobs is not None:
                frames.append(self._frame(self._to_echo(index, event.prompt_logprobs), index))
            if thoughts:
                frames.append(self._frame(_thoughts_choice(thoughts), index))
            if tokens:
                logprobs = b'"logprobs":' + orjson.dumps(self._to_logprobs(tokens))
                frames += (before, orjson.dumps(text), after.replace(_NO_LOGPROBS, logprobs, 1))
            elif text:
                frames += (before, orjson.dumps(text), after)
            for call in calls:
                frames.append(self._frame(_call_choice(call, is_older=reader.is_older), index))
            if event.finish_reason is not None:
                before, after = self._lasts[index]
                frames += (before, orjson.dumps(reader.finish_reason), after)
        data = b"".join(frames)
        if self._usage is ToldUsage.ALWAYS:
            usage = orjson.dumps(usage_fields(self._generation, self._readers))
            data = data.replace(_NO_USAGE, b',"usage":' + usage + _NO_USAGE[-3:])
        return data

    def closing(self, generation: Generation) -> bytes:
        if self._usage is ToldUsage.NEVER:
            return DONE
        return _data({**self._fields, "choices": [], "usage": usage_fields(generation, self._readers)}) + DONE

    def failure(self, error: Exception, request_id: str) -> bytes:
        return b"event: error\ndata: " + error_body(error, request_id) + b"\n\n"

    def _frame(self, choice: dict[str, Any], index: int) -> bytes:
        chunk = {**self._fields, "choices": [{"index": index, **choice}]}
        return _data(chunk if self._usage is ToldUsage.NEVER else {**chunk, "usage": None})


def chat_frames(
    head: Head, generation: Generation, *, usage: ToldUsage, use: ToolUse, include_reasoning: bool
) -> ChunkFrames:
    """`chat.completion.chunk`: the role first, then content."""
    rest: dict[str, Any] = {"logprobs": None, "finish_reason": None}
    return ChunkFrames(
        head,
        "chat.completion.chunk",
        generation,
        firsts=[{"delta": {"role": "assistant", "content": ""}, **rest}] * generation.num_choices,
        text={"delta": {"content": _TEXT}, **rest},
        last={"delta": {}, "logprobs": None, "finish_reason": _REASON},
        to_logprobs=chat_logprobs,
        readers=readers_of(generation, use, include_reasoning=include_reasoning),
        usage=usage,
    )


def completion_frames(head: Head, generation: Generation, *, usage: ToldUsage) -> ChunkFrames:
    """`text_completion`: text only, behind the prompt's where that is echoed.

    The echo leaves with the headers, or with its log-probabilities when they are known.
    """
    rest: dict[str, Any] = {"logprobs": None, "finish_reason": None}
    echoes = [generation.echo_of(i) for i in range(generation.num_choices)]

    def to_echo(index: int, found: Sequence[TokenLogprobs]) -> dict[str, Any]:
        logprobs = echo_logprobs(echoes[index], found, generation.model.tokenizer)
        return {"text": echoes[index].text, **rest, "logprobs": logprobs}

    return ChunkFrames(
        head,
        "text_completion",
        generation,
        firsts=[{"text": echo.text, **rest} for echo in echoes if generation.echoes and not echo.ids],
        text={"text": _TEXT, **rest},
        last={"text": "", "logprobs": None, "finish_reason": _REASON},
        to_logprobs=completion_logprobs,
        to_echo=to_echo,
        readers=readers_of(generation, NO_TOOLS),
        usage=usage,
    )


def _thoughts_choice(thoughts: str) -> dict[str, Any]:
    """Clients look for thoughts under either name."""
    delta = {"reasoning_content": thoughts, "reasoning": thoughts}
    return {"delta": delta, "logprobs": None, "finish_reason": None}


def _call_choice(call: ToolCall, *, is_older: bool) -> dict[str, Any]:
    """A call comes whole: its arguments are complete when it is known to be one."""
    delta = calls_fields([call], is_older=is_older)
    if not is_older:
        delta["tool_calls"][0]["index"] = call.place
    return {"delta": delta, "logprobs": None, "finish_reason": None}


def _data(chunk: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _cut(frame: bytes, mark: str) -> tuple[bytes, bytes]:
    before, _, after = frame.partition(orjson.dumps(mark))
    return before, after
