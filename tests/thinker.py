"""A scripted model that thinks before it answers, and what it is asked."""

from __future__ import annotations

from typing import Any

from llm_serving.backends.fake import FakeTokenizer, load_fake_engine
from llm_serving.chat.template import ChatTemplate
from llm_serving.config import Settings
from llm_serving.service.loader import engine_options
from llm_serving.service.model import ChatModel
from llm_serving.service.registry import LoadModel

# As Qwen3's: the model opens its thoughts, unless it is told not to.
SWITCHED = (
    "{% for m in messages %}{{ m.role }}: {{ m.reasoning_content or '' }}|{{ m.content }};{% endfor %}"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)
OPENED = "{% for m in messages %}{{ m.content }};{% endfor %}</think><think>\n"  # as DeepSeek-R1's
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 200}
THOUGHT = "<think>\nHm, well. \n</think>\n\nHello <think>."


def thinker(template: str = SWITCHED, reply: str = THOUGHT) -> LoadModel:
    def load(settings: Settings) -> ChatModel:
        engine = load_fake_engine(engine_options(settings), reply=reply)
        return ChatModel("thinker", engine, FakeTokenizer(), ChatTemplate(template))

    return load
