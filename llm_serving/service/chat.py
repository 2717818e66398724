"""Chat: messages in, running choices out. Every refusal happens here, before the first byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from llm_serving.chat.messages import Message, join_contents, with_system_prompt
from llm_serving.service.generation import (
    Generation,
    GenerationDefaults,
    GenerationOptions,
    start_generation,
)
from llm_serving.service.model import ChatModel
from llm_serving.service.registry import Registry

INLINE_CHARS = 8192  # longer prompts are rendered and tokenised on a thread
_CHARS_A_MESSAGE = 64  # what rendering a message costs beside its text


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation to continue."""

    request_id: str
    messages: Sequence[Message]
    options: GenerationOptions
    model: str | None = None
    template_inputs: Mapping[str, Any] = field(default_factory=dict)  # beside the messages


class ChatService:
    """Conversations for the models of one registry."""

    def __init__(self, registry: Registry, defaults: GenerationDefaults, system_prompt: str = "") -> None:
        self._registry = registry
        self._defaults = defaults
        self._system_prompt = system_prompt

    async def open(self, request: ChatRequest) -> Generation:
        """Admit a conversation; use the result in an `async with`.

        Raises: ModelNotFound, ModelLoading, ModelUnavailable, TemplateError, ContextLengthExceeded,
        Overloaded, EngineDead.
        """
        slot = self._registry.find(request.model)
        model = slot.get()
        prompt = await self.read(model, request.messages, request.template_inputs)
        return await start_generation(
            slot, model, request.request_id, [prompt], request.options, self._defaults
        )

    async def read(
        self, model: ChatModel, messages: Sequence[Message], template_inputs: Mapping[str, Any]
    ) -> list[int]:
        """The prompt that a conversation becomes, in tokens; long ones on a thread. Raises: TemplateError."""
        messages = with_system_prompt(messages, self._system_prompt)
        if sum(_CHARS_A_MESSAGE + len(message["content"]) for message in messages) > INLINE_CHARS:
            return await asyncio.to_thread(prompt_ids, model, messages, template_inputs)
        return prompt_ids(model, messages, template_inputs)

    async def write(
        self, model: ChatModel, messages: Sequence[Message], template_inputs: Mapping[str, Any]
    ) -> str:
        """The same as text. Raises: TemplateError."""
        messages = with_system_prompt(messages, self._system_prompt)
        if model.template is None:
            return join_contents(messages)
        return await asyncio.to_thread(partial(model.template.render, messages, **template_inputs))


def prompt_ids(
    model: ChatModel, messages: Sequence[Message], template_inputs: Mapping[str, Any] | None = None
) -> list[int]:
    """Messages → token ids. Special tokens come from the template, never from a message or another input."""
    guard = model.tokenizer.guard
    guarded = [Message(**{**message, "content": guard(message["content"])}) for message in messages]
    if model.template is None:
        text = join_contents(guarded)
    else:
        text = model.template.render(
            guarded, **{name: _guarded(value, guard) for name, value in (template_inputs or {}).items()}
        )
    return model.tokenizer.encode_prompt(text)


def _guarded(value: Any, guard: Callable[[str], str]) -> Any:
    """`value`, of JSON, with `guard` on every text in it."""
    if isinstance(value, str):
        return guard(value)
    if isinstance(value, list):
        return [_guarded(item, guard) for item in value]
    if isinstance(value, dict):
        return {guard(name): _guarded(item, guard) for name, item in value.items()}
    return value
