"""The Jinja that chat templates are written for, for templates nobody here wrote.

The helpers are those of `transformers`' `apply_chat_template`; templates rely on them.

Refused: private attributes, changing the inputs, ranges above 100 000, strings and lists grown beyond
`MAX_LENGTH` by an operator or padding and lists beyond `MAX_APPENDED` by appending, numbers of more than
`MAX_BITS`. Not bounded: the time of nested loops that write nothing, and what `join` or `replace` of allowed
values can grow to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_LENGTH = 1 << 25  # of an intermediate string, in characters
ITEM_LENGTH = 32  # what an element of a list counts for
MAX_APPENDED = 1 << 15  # items of a list
MAX_WIDTH = 10_000  # of padding and indentation
MAX_BITS = 4096

_PADDING = frozenset({"ljust", "rjust", "center", "zfill", "expandtabs"})
_SIZED_FILTERS = ("batch", "center", "indent", "slice", "wordwrap")  # their integers are widths and counts
# A width or precision that is long, or that an argument gives.
_WIDE_PERCENT = re.compile(r"%[^a-zA-Z%]*(?:\d{5}|\*)")
_WIDE_FORMAT = re.compile(r":[^{}]*(?:\d{5}|\{)")


class TemplateRefusal(Exception):
    """The template called `raise_exception` with this message."""


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here they are only text.

    What is set inside is not known behind it: `transformers` makes a call of the block.
    """

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Code(CodeGenerator):
    """Sends `~` through the sandbox as well, which Jinja does for the other operators only."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat_values((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _TemplateNamespace(Namespace):
    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _check_name(name)
        super().__init__(attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """One environment a template."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    code_generator_class = _Code

    def __init__(self, *, changes_lists: bool = False) -> None:
        """`changes_lists`: templates may append to lists and pop from them, as the inputs are copies."""
        self._changes_lists = changes_lists
        # Not optimized: that would evaluate constant expressions before anything is checked.
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[_Generation, loopcontrols]
        )
        self.filters["tojson"] = _tojson
        self.filters["format"] = _format
        for name in _SIZED_FILTERS:
            self.filters[name] = _limited(self.filters[name])
        del self.globals["lipsum"]
        self.globals.update(
            raise_exception=_raise_exception,
            strftime_now=_strftime_now,
            namespace=_TemplateNamespace,
            dict=_dict,
        )

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if self._changes_lists and type(obj) is list and attr in ("append", "pop"):
            return True
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            _check_format(_WIDE_PERCENT, left)
        elif operator == "+":
            _check_length(_length(left) + _length(right))
        elif operator == "*":
            _check_product(left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * max(right, 0))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str) and __obj.__name__ in _PADDING:
            _check_widths(args, kwargs)
        elif isinstance(owner, list) and __obj.__name__ == "append" and len(owner) >= MAX_APPENDED:
            raise SecurityError(f"a list of more than {MAX_APPENDED} items is too long")
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_format(_WIDE_FORMAT, value.__self__)
        return wrapped

    def concat_values(self, values: tuple[Any, ...]) -> str:
        """The `~` operator."""
        _check_length(sum(map(_length, values)))
        return str_join(values)


def _length(value: Any) -> int:
    if isinstance(value, (list, tuple)):
        return ITEM_LENGTH * len(value)
    return len(value) if isinstance(value, str) else 0


def _check_length(length: int) -> None:
    if length > MAX_LENGTH:
        raise SecurityError(f"a text of {length} characters, or a list as large, is too long")


def _check_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise SecurityError(f"a number of {bits} bits is too large")


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
    elif isinstance(left, int):
        _check_length(left * _length(right))
    elif isinstance(right, int):
        _check_length(_length(left) * right)


def _check_widths(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, int) and value > MAX_WIDTH:
            raise SecurityError(f"a width or count of {value} is too large")


def _check_format(wide: re.Pattern[str], form: str) -> None:
    if wide.search(form):
        raise SecurityError("a format with such a width is not allowed")


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold the name {name!r}")


def _limited(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        _check_widths(args, kwargs)
        return function(*args, **kwargs)

    return limited


def _format(form: Any, *args: Any, **kwargs: Any) -> str:
    _check_format(_WIDE_PERCENT, str(form))
    return str(str(form) % (kwargs or args))


def _raise_exception(message: Any) -> NoReturn:
    raise TemplateRefusal(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes <, > and &, for HTML; models have learned plain JSON.
    _check_widths((indent,), {})
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
