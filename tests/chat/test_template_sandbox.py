"""Templates of strangers: no way out of the sandbox, and no way to take much memory."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from llm_serving.chat.template import MAX_ADDED_CHARS, ChatTemplate
from llm_serving.errors import TemplateError

MESSAGES = [{"role": "user", "content": "hi"}]

ESCAPES = [
    "{% set _ = messages.append(1) %}{% set _ = messages.pop(0) %}{{ messages }}",
    "{% set all = [] %}{% set _ = all.append(all) %}{{ all }}{{ all.append.__self__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__ }}",
    "{{ messages['__class__'] }}",
    "{{ (messages | attr('__class__')).__name__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__code__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ '{a.__class__}'.format_map({'a': messages}) }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns.__class__ }}",
    "{{ namespace(__class__=1) }}",
    "{{ namespace({'_Namespace__attrs': 1}) }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{{ messages.clear() }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ open('/etc/passwd') }}",
    "{{ lipsum() }}",
]
GREEDY = [
    "{% set all = [] %}{% for i in range(99999) %}{% for j in range(99) %}{% set _ = all.append(i) %}"
    "{% endfor %}{% endfor %}",
    "{{ range(10 ** 9) | list }}",
    "{{ 'a' * 10 ** 10 }}",
    "{{ 10 ** 10 * 'a' }}",
    "{{ [0] * 10 ** 10 }}",
    "{{ 9 ** 9999 }}",
    "{% set ns = namespace(n=3) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "{% set ns = namespace(t='ab') %}{% for i in range(60) %}{% set ns.t = ns.t + ns.t %}{% endfor %}",
    "{% set ns = namespace(t='ab') %}{% for i in range(60) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}",
    "{% set ns = namespace(t=[1]) %}{% for i in range(60) %}{% set ns.t = ns.t + ns.t %}{% endfor %}",
    "{{ 'a'.ljust(10 ** 10) }}",
    "{{ 'a'.center(10 ** 10) }}",
    "{{ '1'.zfill(10 ** 10) }}",
    "{{ '\t'.expandtabs(10 ** 10) }}",
    "{{ 'a' | center(10 ** 10) }}",
    "{{ 'a\nb' | indent(10 ** 10) }}",
    "{{ 'a\nb' | indent(width=10 ** 10) }}",
    "{{ messages | slice(10 ** 10) | list }}",
    "{{ messages | batch(10 ** 10, 'x') | list }}",
    "{{ '%9999999999d' % 1 }}",
    "{{ '%*d' % (10 ** 10, 1) }}",
    "{{ '%9999999999d' | format(1) }}",
    "{{ '{:9999999999}'.format(1) }}",
    "{{ '{:{}}'.format(1, 10 ** 10) }}",
    "{{ messages | tojson(indent=10 ** 10) }}",
    "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_there_is_no_way_out(source: str) -> None:
    template = ChatTemplate(source)
    try:
        text = template.render(MESSAGES)
    except TemplateError as error:
        assert error.param == "messages"  # noqa: PT017
        text = str(error)
    assert "root:" not in text
    assert "<class" not in text
    assert "<module" not in text
    assert MESSAGES == [{"role": "user", "content": "hi"}]


@pytest.mark.slow
@pytest.mark.parametrize("source", GREEDY)
def test_growth_is_refused(source: str) -> None:
    template = ChatTemplate(source)
    started = time.thread_time()
    tracemalloc.start()
    try:
        with pytest.raises(TemplateError, match="messages") as caught:
            template.render(MESSAGES)
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()
    assert caught.value.param == "messages"
    assert time.thread_time() - started < 5.0


def test_the_limit_grows_with_the_messages() -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")
    long = {"role": "user", "content": "x" * (2 * MAX_ADDED_CHARS)}
    assert len(template.render([long, long])) == 4 * MAX_ADDED_CHARS
    with pytest.raises(TemplateError, match="writes more than"):
        ChatTemplate("{% for i in range(9) %}{{ messages[0].content }}{% endfor %}").render([long])


def test_templates_may_keep_lists_of_their_own() -> None:
    own = "{% set ids = [] %}{% for m in messages %}{% set _ = ids.append(m.role) %}{% endfor %}"
    assert ChatTemplate(own + "{{ ids.pop(0) }}{{ ids }}").render(MESSAGES) == "user[]"
    for change in ("tools.append(1)", "tools.pop()"):
        tools = [{"a": 1}]
        ChatTemplate("{% set _ = [].append(1) %}{% set _ = " + change + " %}").render(MESSAGES, tools=tools)
        assert tools == [{"a": 1}]
    for change in ("extend([1])", "insert(0, 1)", "clear()", "sort()"):
        with pytest.raises(TemplateError, match="unsafe"):
            ChatTemplate("{% set _ = [].append(1) %}{% set _ = []." + change + " %}").render(MESSAGES)


def test_failures_say_what_failed() -> None:
    for source, words in [
        ("{{ messages[0].missing.more }}", "no attribute 'missing'"),
        ("{{ messages[0].content + 1 }}", "can only concatenate str"),
        ("{{ raise_exception({'a': 1}) }}", "{'a': 1}"),
        ("{{ 1 / 0 }}", "division by zero"),
    ]:
        with pytest.raises(TemplateError, match="messages") as caught:
            ChatTemplate(source).render(MESSAGES)
        assert words in str(caught.value)
