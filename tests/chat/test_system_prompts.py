"""Several system prompts, and late ones, where the template takes one at the beginning."""

from __future__ import annotations

import pytest

from llm_serving.backends.fake import FakeTokenizer, load_fake_engine
from llm_serving.chat.messages import Message
from llm_serving.chat.system_prompts import folded
from llm_serving.chat.template import ChatTemplate
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import TemplateError
from llm_serving.service.model import ChatModel
from llm_serving.service.rendering import Conversation, prompt_ids

# As Qwen 3.5's and Gemma's: one system prompt, and then turns that alternate.
STRICT = """\
{%- for message in messages %}
  {%- if not loop.first %}
    {%- if message.role == 'system' %}{{ raise_exception('only one, in front') }}{% endif %}
    {%- if message.role == loop.previtem.role %}{{ raise_exception('no alternation') }}{% endif %}
  {%- endif %}
  {{- '[' + message.role + ':' + message.content + ']' }}
{%- endfor %}"""
# Takes what it does not know for nothing.
SILENT = """\
{%- for message in messages %}
  {%- if message.role != 'system' or loop.first %}
    {{- '[' + message.role + ':' + message.content + ']' }}
  {%- endif %}
{%- endfor %}"""
LENIENT = "{% for message in messages %}[{{ message.role }}:{{ message.content }}]{% endfor %}"
DEAF = "{% for message in messages if message.role != 'system' %}[{{ message.role }}]{% endfor %}"


def told(*turns: tuple[str, str]) -> list[Message]:
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [Message(role=roles[role], content=content) for role, content in turns]


AGENTS = told(("s", "A"), ("s", "B"), ("u", "C"), ("s", "D"), ("a", "E"), ("s", "F"), ("u", "G"), ("s", "H"))
FOLDED = told(("s", "A\n\nB"), ("u", "C\n\nD"), ("a", "E"), ("u", "F\n\nG\n\nH"))


def rendered(template: str, messages: list[Message]) -> str:
    model = ChatModel("m", load_fake_engine(EngineOptions()), FakeTokenizer(), ChatTemplate(template))
    ids = prompt_ids(model, Conversation(messages))
    return FakeTokenizer().decode(ids)


def as_text(messages: list[Message]) -> str:
    return "".join(f"[{message['role']}:{message['content']}]" for message in messages)


@pytest.mark.parametrize(
    "messages",
    [told(), told(("u", "A")), told(("s", "A"), ("u", "B"), ("u", "C")), told(("s", "A")), told(("t", "A"))],
)
def test_one_in_front_stays_as_it_is(messages: list[Message]) -> None:
    assert folded(messages) is None


def test_folded() -> None:
    assert folded(AGENTS) == FOLDED


def test_turns_of_users_stay_apart_where_no_system_is_between() -> None:
    messages = told(("u", "A"), ("u", "B"), ("s", "C"), ("s", "D"), ("a", "E"), ("u", "F"), ("u", "G"))
    assert folded(messages) == told(("u", "A"), ("u", "B\n\nC\n\nD"), ("a", "E"), ("u", "F"), ("u", "G"))


def test_only_systems() -> None:
    assert folded(told(("s", "A"), ("s", "B"))) == told(("s", "A\n\nB"))


def test_pictures_stay_in_their_place() -> None:
    picture = {"where": "messages.1", "data": b""}
    messages = told(("s", "A"), ("u", "B"), ("s", "C"))
    messages[1]["parts"] = ["B", picture]  # type: ignore[list-item]
    (_, user) = folded(messages) or []
    assert (user["content"], user["parts"]) == ("B\n\nC", ["B", picture, "C"])


def test_a_template_that_takes_them_gets_them() -> None:
    assert rendered(LENIENT, AGENTS) == as_text(AGENTS)


@pytest.mark.parametrize("template", [STRICT, SILENT])
def test_a_template_that_does_not_gets_one(template: str) -> None:
    assert rendered(template, AGENTS) == as_text(FOLDED)


def test_a_template_that_tells_of_none_is_taken_as_it_is() -> None:
    assert rendered(DEAF, AGENTS) == "[user][assistant][user]"


def test_what_a_template_refuses_for_another_reason_is_refused() -> None:
    with pytest.raises(TemplateError, match="no alternation"):
        rendered(STRICT, told(("s", "A"), ("s", "B"), ("u", "C"), ("u", "D")))
