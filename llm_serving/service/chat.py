"""Chat: messages in, running choices out. Every refusal happens here, before the first byte."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from llm_serving.chat.messages import Message, with_system_prompt
from llm_serving.chat.pictures import pictures_in
from llm_serving.chat.reasoning import (
    Reasoning,
    effort_inputs,
    nearest_effort,
    reasoning_behind,
)
from llm_serving.errors import InvalidRequest
from llm_serving.service.generation import (
    Generation,
    GenerationDefaults,
    GenerationOptions,
    start_generation,
)
from llm_serving.service.model import ChatModel
from llm_serving.service.registry import Registry
from llm_serving.service.rendering import Conversation, prompt_ids, rendered
from llm_serving.service.shortening import shorten
from llm_serving.service.vision import Prompt, Vision

INLINE_CHARS = 8192  # longer prompts are rendered and tokenised on a thread
_TAG_TOKENS = 32
_CHARS_A_MESSAGE = 64  # what rendering a message costs beside its text


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation to continue."""

    request_id: str
    conversation: Conversation
    options: GenerationOptions
    model: str | None = None
    leaves_out: bool = False  # the oldest turns, if it is too long


class ChatService:
    """Conversations for the models of one registry."""

    def __init__(self, registry: Registry, defaults: GenerationDefaults, system_prompt: str = "") -> None:
        self._registry = registry
        self._defaults = defaults
        self._system_prompt = system_prompt

    async def open(self, request: ChatRequest) -> Generation:
        """Admit a conversation; use the result in an `async with`.

        Raises: ModelNotFound, ModelLoading, ModelUnavailable, InvalidRequest (an effort that is not the
        model's, images), TemplateError, ContextLengthExceeded, Overloaded, EngineDead, RequestCancelled.
        """
        slot = self._registry.find(request.model)
        with slot.used():
            model = await slot.ask()
            conversation, num_left_out = request.conversation, 0
            if request.leaves_out:
                asked = request.options.max_tokens
                most = self._defaults.max_tokens if asked is None else asked
                read = partial(self.read, model, looks=False)
                conversation, num_left_out = await shorten(model, conversation, most, read)
            prompt = await self.read(model, conversation)
            is_open = conversation.template_inputs.get("continue_final_message")
            generation = await start_generation(
                slot,
                model,
                request.request_id,
                [prompt.ids],
                request.options,
                self._defaults,
                None if is_open else model.thoughts,
                Reasoning.NONE if is_open else _reasoning(model, prompt.ids),
                prompt.given,
                self._registry.adapter(request.model),
            )
            generation.num_left_out = num_left_out
            return generation

    async def read(self, model: ChatModel, conversation: Conversation, *, looks: bool = True) -> Prompt:
        """The prompt that a conversation becomes; long ones, and those with images, on a thread.

        Without `looks` the tokens of images are counted only.
        Raises: TemplateError, InvalidRequest (an effort that is not the model's), what `Vision.read` raises.
        """
        whole = self._whole(model, conversation)
        if model.vision is not None and (pictures := pictures_in(whole.messages)):
            tokenize = partial(prompt_ids, model, whole)
            return await model.vision.read(pictures, tokenize, model.engine.max_context, looks=looks)
        size = sum(_CHARS_A_MESSAGE + len(message["content"]) for message in whole.messages)
        if whole.tools or size > INLINE_CHARS or any("tool_calls" in message for message in whole.messages):
            return Prompt(await asyncio.to_thread(prompt_ids, model, whole))
        return Prompt(prompt_ids(model, whole))

    async def write(self, model: ChatModel, conversation: Conversation) -> str:
        """The same as text. Raises: as `read`."""
        return await asyncio.to_thread(rendered, model, self._whole(model, conversation), str)

    def _whole(self, model: ChatModel, conversation: Conversation) -> Conversation:
        """With the server's system prompt, and the effort in the words of the model's template.

        Raises: InvalidRequest (an effort that is not the model's, or that the template's inputs contradict;
        images for a model that reads only).
        """
        if model.vision is None and (pictures := pictures_in(conversation.messages)):
            where = pictures[0]["where"]
            remedy = f" {model.sight_remedy}" if model.sight_remedy else ""
            raise InvalidRequest(f"'{where}' is an image, and '{model.name}' reads text only.{remedy}", where)
        if model.vision is not None:
            _check_texts(model, model.vision, conversation.messages)
        inputs = conversation.template_inputs
        source = model.template.source if model.template else ""
        effort = conversation.effort
        if effort is not None and conversation.is_effort_a_wish:
            effort = nearest_effort(effort, source)
        if effort is not None:
            asked = effort_inputs(effort, source)
            if any(inputs.get(name, value) != value for name, value in asked.items()):
                raise InvalidRequest(
                    "'reasoning_effort' and 'chat_template_kwargs' contradict each other. Send one of them.",
                    "reasoning_effort",
                )
            inputs = {**inputs, **asked}
        messages = with_system_prompt(conversation.messages, self._system_prompt)
        return replace(conversation, messages=messages, template_inputs=inputs, effort=effort)


def _check_texts(model: ChatModel, vision: Vision, messages: Sequence[Message]) -> None:
    """Where images stand in a prompt must not come from a text. Most vocabularies see to it: see `guard`.

    Raises: InvalidRequest.
    """
    marks = [mark for mark in vision.marks if mark in model.tokenizer.guard(mark)]
    if not marks or not pictures_in(messages):
        return
    for i, message in enumerate(messages):
        mark = next((mark for mark in marks if mark in message["content"]), None)
        if mark is not None:
            where = f"messages.{i}.content"
            raise InvalidRequest(
                f"'{where}' holds '{mark}', which stands for an image in this model's prompts. Write it "
                "otherwise, or send no images with it.",
                where,
            )


def _reasoning(model: ChatModel, prompt: Sequence[int]) -> Reasoning:
    """How the answer to `prompt` begins. Its last tokens tell: blanks, and a tag of at most `_TAG_TOKENS`."""
    if model.thoughts is None:
        return Reasoning.NONE
    end = model.tokenizer.decode(prompt[-_TAG_TOKENS:], skip_special=False)
    return reasoning_behind(model.thoughts, end)
