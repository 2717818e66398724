"""Fields that every endpoint with a chat template shares."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from llm_serving.chat.reasoning import Effort

MAX_TEMPLATE_INPUTS = 64


class TemplateFields(BaseModel):
    """null means: not given. See `convert/template.py`."""

    reasoning_effort: Effort | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(None, max_length=MAX_TEMPLATE_INPUTS)
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
