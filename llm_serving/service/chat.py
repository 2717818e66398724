"""Chat: messages in, running choices out. Every refusal happens here, before the first byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from llm_serving.chat.harmony import as_history
from llm_serving.chat.messages import Message, join_contents, with_system_prompt
from llm_serving.chat.notations.teaching import IN_WORDS, History
from llm_serving.chat.notations.words import in_words, told_functions
from llm_serving.chat.pictures import pictures_in
from llm_serving.chat.reasoning import (
    Effort,
    Reasoning,
    effort_inputs,
    nearest_effort,
    reasoning_behind,
    thoughts_name,
    without_thoughts,
)
from llm_serving.chat.system_prompts import folded, system_texts
from llm_serving.chat.template import as_parts
from llm_serving.chat.tools import Tool
from llm_serving.errors import InvalidRequest, TemplateError
from llm_serving.images.expansion import IMAGE
from llm_serving.service.generation import (
    Generation,
    GenerationDefaults,
    GenerationOptions,
    start_generation,
)
from llm_serving.service.model import ChatModel
from llm_serving.service.registry import Registry
from llm_serving.service.vision import Prompt, Vision

INLINE_CHARS = 8192  # longer prompts are rendered and tokenised on a thread
_TAG_TOKENS = 32
_CHARS_A_MESSAGE = 64  # what rendering a message costs beside its text


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a prompt is made of."""

    messages: Sequence[Message]
    template_inputs: Mapping[str, Any] = field(default_factory=dict)  # beside the messages
    tools: Sequence[Tool] = ()  # that the model is told of
    effort: Effort | None = None
    is_effort_a_wish: bool = False  # what the model does not know of it is no error


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation to continue."""

    request_id: str
    conversation: Conversation
    options: GenerationOptions
    model: str | None = None


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
            prompt = await self.read(model, request.conversation)
            is_open = request.conversation.template_inputs.get("continue_final_message")
            return await start_generation(
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
        return await asyncio.to_thread(_rendered, model, self._whole(model, conversation), str)

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


def prompt_ids(model: ChatModel, conversation: Conversation, expansions: Sequence[str] = ()) -> list[int]:
    """Token ids. Special tokens come from the template, never from a message or another input.

    `expansions` are what stands for each image. Raises: TemplateError.
    """
    text = _rendered(model, conversation, model.tokenizer.guard)
    if expansions:
        around = text.split(_mark(model))  # the template's own: what others wrote is guarded
        if len(around) != 1 + len(expansions):
            raise TemplateError("The model's chat template does not show each image once.", "messages")
        text = around[0] + "".join(map("".join, zip(expansions, around[1:], strict=True)))
    return model.tokenizer.encode_prompt(text)


def _mark(model: ChatModel) -> str:
    return IMAGE if model.vision is None else model.vision.mark


def _rendered(model: ChatModel, conversation: Conversation, guard: Callable[[str], str]) -> str:
    """The prompt, with `guard` on every text that is not the template's own."""
    text = _from_template(model, conversation, guard)
    inputs = conversation.template_inputs
    begins_answer = inputs.get("add_generation_prompt", True) and not inputs.get("continue_final_message")
    if conversation.effort != "none" or not begins_answer or model.template is None:
        return text
    return without_thoughts(model.thoughts, model.template.source, text)


def _from_template(model: ChatModel, conversation: Conversation, guard: Callable[[str], str]) -> str:
    """As the conversation is; where the template takes no second system prompt, with one, see `folded`."""
    messages = folded(conversation.messages)
    if messages is None:
        return _as_it_is(model, conversation, guard)
    text = None
    try:
        text = _as_it_is(model, conversation, guard)
        if all(guard(said.strip()) in text for said in system_texts(conversation.messages)):
            return text
        return _as_it_is(model, replace(conversation, messages=messages), guard)
    except TemplateError:
        if text is not None:
            return text
    return _as_it_is(model, replace(conversation, messages=messages), guard)


def _as_it_is(model: ChatModel, conversation: Conversation, guard: Callable[[str], str]) -> str:
    template = model.template
    messages, tools = conversation.messages, conversation.tools
    thoughts = thoughts_name(template.source if template else "")
    inputs = {name: _guarded(value, guard) for name, value in conversation.template_inputs.items()}

    def render(messages: Sequence[Message], **more: Any) -> str:
        guarded = [model.teaching.guarded(_guarded_message(message, guard, thoughts)) for message in messages]
        if model.wants_parts:
            guarded = [{**message, "content": as_parts(message["content"])} for message in guarded]
        return (
            template.render(guarded, **{**inputs, **more})
            if template
            else join_contents(guarded, _mark(model))
        )

    if model.thoughts is not None and model.thoughts.has_channels:
        told = _guarded([tool.definition() for tool in tools], guard)
        return render(as_history(messages), tools=told or None)
    if model.teaching.history is not History.WORDS:
        teaching = model.teaching
        if not teaching.shows_functions:
            messages, tools = told_functions(messages, tools, teaching.notation), ()
        told = _guarded([tool.definition() for tool in tools], guard)
        try:
            return render(teaching.messages(messages), **teaching.inputs(told))
        except TemplateError:  # some fail at schemas that they do not know
            if teaching.notation is not IN_WORDS.notation:
                if not told:
                    raise
                messages = told_functions(messages, tools, teaching.notation)
                return render(teaching.messages(messages), **teaching.inputs([]))
    if not tools and not any("tool_calls" in message for message in messages):
        return render(messages)
    try:
        return render(in_words(messages, tools))
    except TemplateError:  # some templates take no system prompt
        return render(in_words(messages, tools, has_system=False))


def _guarded_message(message: Message, guard: Callable[[str], str], thoughts: str) -> dict[str, Any]:
    """What the client wrote freely of it is guarded; that is little, and each call costs.

    `thoughts` is the template's name for `reasoning_content`.
    """
    guarded: dict[str, Any] = {**message, "content": guard(message["content"])}
    for part in ("name", "tool_call_id"):
        if part in message:
            guarded[part] = guard(message[part])
    if "parts" in message:
        guarded["content"] = [
            {"type": "text", "text": guard(part)} if isinstance(part, str) else {"type": "image"}
            for part in guarded.pop("parts")
        ]
    if "reasoning_content" in message:
        guarded[thoughts] = guard(guarded.pop("reasoning_content"))
    if "tool_calls" in message:
        guarded["tool_calls"] = _guarded(message["tool_calls"], guard)
    return guarded


def _guarded(value: Any, guard: Callable[[str], str]) -> Any:
    """`value`, of JSON, with `guard` on every text in it."""
    if isinstance(value, str):
        return guard(value)
    if isinstance(value, list):
        return [_guarded(item, guard) for item in value]
    if isinstance(value, dict):
        return {guard(name): _guarded(item, guard) for name, item in value.items()}
    return value
