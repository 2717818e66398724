"""Chat templates: messages in, the prompt's text out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2

from llm_serving.chat.messages import is_within
from llm_serving.chat.sandbox import TemplateRefusal, TemplateSandbox
from llm_serving.errors import CheckpointError, InvalidRequest, TemplateError

MAX_SOURCE_CHARS = 1 << 20
MAX_ADDED_CHARS = 4 << 20  # what a template may write beyond the messages themselves
MAX_COPIES = 4  # how often it may write those

_PROBE = "a text"
_CONTINUE = "\ufdef"  # a noncharacter: behind it, the template's own ending of the last message begins


MAX_DEPTH = 16  # of what a request gives the template beside messages
RESERVED = ("messages", "tools", "add_generation_prompt", "continue_final_message", "bos_token", "eos_token")


def template_inputs(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """`values` themselves: what a request gives a template beside messages, as Qwen3's `enable_thinking`.

    Raises: InvalidRequest for a name that is not the request's to give, and for deep nesting.
    """
    for name in RESERVED:
        if name in values:
            raise InvalidRequest(
                f"'chat_template_kwargs' must not hold '{name}', which the server gives the template.",
                "chat_template_kwargs",
            )
    if not is_within(values, MAX_DEPTH):
        raise InvalidRequest(
            f"'chat_template_kwargs' is nested more than {MAX_DEPTH} levels deep.", "chat_template_kwargs"
        )
    return values


def takes_texts(render: Callable[..., str]) -> bool:
    """Whether a template shows contents that are texts. Some of models that see want lists of parts only."""
    try:
        return _PROBE in render([{"role": "user", "content": _PROBE}])
    except TemplateError:
        return False


def as_parts(content: Any) -> Any:
    """A content for templates that take lists of parts only."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class ChatTemplate:
    """A compiled template; thread-safe, and equal to what `transformers` renders."""

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        """Raises: CheckpointError if the template is too large or is not valid Jinja."""
        if len(source) > MAX_SOURCE_CHARS:
            raise CheckpointError(
                f"The chat template has {len(source)} characters; at most {MAX_SOURCE_CHARS} are read."
            )
        self.source = source
        self._names = {"bos_token": bos_token, "eos_token": eos_token}
        self._changes_lists = ".append(" in source  # as Kimi's do, to lists of their own
        try:
            self._template = TemplateSandbox(changes_lists=self._changes_lists).from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise CheckpointError(
                f"The model's chat template is not valid Jinja, line {error.lineno}: {error.message}."
            ) from error
        except (RecursionError, MemoryError, OverflowError, ValueError, SyntaxError) as error:
            raise CheckpointError(f"The model's chat template cannot be compiled: {error}.") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,  # other inputs may have any name
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: list[Any] | None = None,
        **kwargs: Any,
    ) -> str:
        """The prompt's text.

        With `continue_final_message` it ends with the last message's content as it stands, so that the
        model goes on writing it; `add_generation_prompt` then does not apply.

        Raises: TemplateError (of the field `messages`), with the template's own words if it has some.
        """
        plain = [dict(message) for message in messages]
        marked = ""
        if continue_final_message:
            add_generation_prompt = False
            marked = _mark_end(plain)
        inputs = {
            **self._names,
            "documents": None,  # defined, and none, as for `transformers`
            **kwargs,
            "messages": plain,
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }
        if self._changes_lists:
            inputs = _copied(inputs)
        text = self._text(inputs)
        return _cut_at_mark(text, marked) if continue_final_message else text

    def _text(self, inputs: dict[str, Any]) -> str:
        """Without functions there are none for `transformers`, and templates ask for that in many ways.

        Some, as Hermes', go through them all the same, and can be rendered with an empty list only.
        """
        limit = MAX_ADDED_CHARS + MAX_COPIES * _num_chars(inputs)
        try:
            return self._run(inputs, limit)
        except TemplateError:
            if inputs["tools"] is not None or "tools" not in self.source:
                raise
            again = _copied(inputs) if self._changes_lists else inputs
            try:
                return self._run({**again, "tools": []}, limit)
            except TemplateError:
                pass
            raise

    def _run(self, inputs: dict[str, Any], limit: int) -> str:
        parts: list[str] = []
        num_chars = 0
        try:
            for part in self._template.generate(inputs):
                num_chars += len(part)
                if num_chars > limit:
                    raise _problem(f"writes more than {limit} characters for them")
                parts.append(part)
        except TemplateError:
            raise
        except TemplateRefusal as error:
            raise TemplateError(
                f"The model's chat template refuses the messages: {error}", "messages"
            ) from error
        except RecursionError as error:
            raise _problem("calls itself without end") from error
        except Exception as error:  # templates are code: they can fail with any error there is
            raise _problem(f"cannot render them: {error}") from error
        return "".join(parts)


def _problem(what: str) -> TemplateError:
    return TemplateError(f"The model's chat template does not accept these messages: it {what}.", "messages")


def _mark_end(messages: list[dict[str, Any]]) -> str:
    """The text that is to be continued, with the mark behind it."""
    content: Any = messages[-1].get("content") if messages else None
    parts: list[Any] = content if isinstance(content, list) else [{"text": content}]
    last = parts[-1] if parts else {}
    if not isinstance(last.get("text"), str):
        raise TemplateError("There is no final message with a text content to continue.", "messages")
    marked: str = last["text"] + _CONTINUE + " "
    messages[-1]["content"] = [*parts[:-1], {**last, "text": marked}] if parts is content else marked
    return marked


def _cut_at_mark(text: str, marked: str) -> str:
    head, mark, tail = text.rpartition(_CONTINUE)
    content = marked.rpartition(_CONTINUE)[0].strip()
    if not mark or content not in head:
        raise TemplateError("The model's chat template leaves out the final message.", "messages")
    return head if tail.startswith(" ") else head.rstrip()  # a template that trims does so to the content too


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return list(map(_copied, value)) if isinstance(value, list) else value


def _num_chars(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_num_chars(key) + _num_chars(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return sum(map(_num_chars, value))
    return 16
