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
    num_added: int = 0  # of the ids, in front: they are not in `text`


def make_echo(
    tokenizer: PromptTokenizer, prompt: str | list[int], ids: Sequence[int], reads_special: bool = True
) -> Echo:
    """`prompt` as it was sent; special tokens of a token array by their names. `ids`: see `Echo`.

    `reads_special`: a text may have begun with the beginning of a sequence, so that none was added.
    """
    if not isinstance(prompt, str):
        return Echo(tokenizer.decode(prompt, skip_special=False), ids)
    has_begun = reads_special and bool(tokenizer.bos_token) and prompt.startswith(tokenizer.bos_token)
    return Echo(prompt, ids, int(not has_begun and list(ids[:1]) == [tokenizer.bos_id]))
