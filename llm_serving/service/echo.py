"""What stands before the answers of a prompt: the prompt itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llm_serving.service.model import PromptTokenizer


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt as text, and its tokens where those are told with their log-probabilities."""

    text: str = ""
    ids: Sequence[int] = ()
    is_from_text: bool = False  # then its special tokens were added, and are not in `text`


def make_echo(tokenizer: PromptTokenizer, prompt: str | list[int], ids: Sequence[int]) -> Echo:
    """`prompt` as it was sent; special tokens of a token array by their names. `ids`: see `Echo`."""
    if isinstance(prompt, str):
        return Echo(prompt, ids, is_from_text=True)
    return Echo(tokenizer.decode(prompt, skip_special=False), ids)
