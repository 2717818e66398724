"""A conversation → the text of its prompt, by the model's template, and its tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llm_serving.chat.harmony import as_history
from llm_serving.chat.messages import Message, join_contents
from llm_serving.chat.notations.teaching import IN_WORDS, History
from llm_serving.chat.notations.words import in_words, told_functions
from llm_serving.chat.reasoning import Effort, thoughts_name, without_thoughts
from llm_serving.chat.system_prompts import folded, system_texts
from llm_serving.chat.template import as_parts
from llm_serving.chat.tools import Tool
from llm_serving.errors import TemplateError
from llm_serving.images.expansion import IMAGE
from llm_serving.service.model import ChatModel


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a prompt is made of."""

    messages: Sequence[Message]
    template_inputs: Mapping[str, Any] = field(default_factory=dict)  # beside the messages
    tools: Sequence[Tool] = ()  # that the model is told of
    effort: Effort | None = None
    is_effort_a_wish: bool = False  # what the model does not know of it is no error


def prompt_ids(model: ChatModel, conversation: Conversation, expansions: Sequence[str] = ()) -> list[int]:
    """Token ids. Special tokens come from the template, never from a message or another input.

    `expansions` are what stands for each image. Raises: TemplateError.
    """
    text = rendered(model, conversation, model.tokenizer.guard)
    if expansions:
        around = text.split(_mark(model))  # the template's own: what others wrote is guarded
        if len(around) != 1 + len(expansions):
            raise TemplateError("The model's chat template does not show each image once.", "messages")
        text = around[0] + "".join(map("".join, zip(expansions, around[1:], strict=True)))
    return model.tokenizer.encode_prompt(text)


def _mark(model: ChatModel) -> str:
    return IMAGE if model.vision is None else model.vision.mark


def rendered(model: ChatModel, conversation: Conversation, guard: Callable[[str], str]) -> str:
    """The prompt as text, with `guard` on every text that is not the template's own."""
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
