"""Errors of the chat API, told in the words of another one that is made of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from llm_serving.errors import InvalidRequest

Name = str | Callable[[re.Match[str]], str]
Names = Sequence[tuple[re.Pattern[str], Name]]  # the chat API's → the other's, applied in this order

# Where a switch says what elsewhere a number does.
TRUNCATE: Names = ((re.compile(r"truncate_prompt_tokens: -1"), "truncate: true"),)


@contextmanager
def named_as_sent(names: Names) -> Iterator[None]:
    """Raises: InvalidRequest, whose text and field are renamed."""
    try:
        yield
    except InvalidRequest as error:
        error.args = (_renamed(str(error), names),)
        error.param = error.param and _renamed(error.param, names)
        raise


def _renamed(text: str, names: Names) -> str:
    for pattern, name in names:
        text = pattern.sub(name, text)
    return text
