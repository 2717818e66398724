"""What a request tells the chat template → the conversation that a prompt is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_serving.api.schemas.template import TemplateFields
from llm_serving.chat.messages import Message
from llm_serving.chat.template import template_inputs
from llm_serving.chat.tools import Tool
from llm_serving.errors import InvalidRequest
from llm_serving.service.rendering import Conversation


def to_conversation(body: TemplateFields, messages: Sequence[Message], tools: Sequence[Tool]) -> Conversation:
    """Raises: InvalidRequest as `template_inputs`, and where no message can be continued."""
    return Conversation(messages, _inputs(body, messages), tools, body.reasoning_effort)


def _inputs(body: TemplateFields, messages: Sequence[Message]) -> Mapping[str, Any]:
    inputs = template_inputs(body.chat_template_kwargs or {})
    if body.continue_final_message:
        if body.add_generation_prompt:
            raise InvalidRequest(
                "'continue_final_message' and 'add_generation_prompt' exclude each other. Send one of them.",
                "continue_final_message",
            )
        if messages[-1]["role"] != "assistant" or "tool_calls" in messages[-1]:
            raise InvalidRequest(
                "'continue_final_message' goes on with a text of the assistant: the last message must be the "
                "assistant's, and call no function.",
                "continue_final_message",
            )
        if body.reasoning_effort not in (None, "none"):
            raise InvalidRequest(
                "'reasoning_effort' asks for thoughts, and with 'continue_final_message' the answer goes on "
                "behind them. Leave one out.",
                "reasoning_effort",
            )
        return {**inputs, "continue_final_message": True}
    return inputs if body.add_generation_prompt is not False else {**inputs, "add_generation_prompt": False}
