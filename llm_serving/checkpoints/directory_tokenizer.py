"""The tokenizer of a Hugging Face directory's tokenizer.json, as the same `Tokenizer` that GGUF files get.

Special tokens come from templates only, every token has its bytes, and encoding is thread-safe.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer as Backend

from llm_serving.checkpoints.byte_level import bytes_of
from llm_serving.checkpoints.fill_in import find_fill_in
from llm_serving.checkpoints.special_tokens import SpecialTokens
from llm_serving.checkpoints.tokenizer import Tokenizer
from llm_serving.checkpoints.tokenizer_library import shut_out
from llm_serving.checkpoints.told_tokens import harmony_ids
from llm_serving.checkpoints.vocabulary import PICTURE_TOKENS, TokenType, Vocabulary

_LOOKS_SPECIAL = re.compile(r"<\|[^|<>]+\|>")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class NamedTokens:
    """The ids that have a meaning; which they are stands beside the tokenizer.json."""

    bos: int | None
    eos: int | None
    unknown: int | None
    ends: frozenset[int]  # of an answer
    all_ids: frozenset[int]  # that have any name
    adds_bos: bool


class DirectoryTokenizer(Tokenizer):
    """Some special tokens swallow the white space beside them; `encode_prompt` does as the original does.

    `state` is what a tokenizer.json holds, after the `tokenizers` library has read it once.
    """

    def __init__(self, state: dict[str, Any], named: NamedTokens, chat_template: str | None) -> None:
        added = {token["id"]: token for token in state["added_tokens"]}
        # What looks special must not come from a user's text either.
        for token in added.values():
            looks_special = token["content"] in PICTURE_TOKENS or _LOOKS_SPECIAL.fullmatch(token["content"])
            token["special"] = token["special"] or bool(looks_special)
        first, later = _backend(state), _backend(_without_first_space(state))
        vocabulary = _vocabulary(first, added, named)
        kinds = _kinds(state["decoder"])
        super().__init__(
            vocabulary,
            _token_bytes(first, vocabulary, kinds),
            first,
            later,
            adds_bos=named.adds_bos,
            strips_space="Strip" in kinds or "Metaspace" in kinds,
            fill_in=find_fill_in(vocabulary),
        )
        self.chat_template = chat_template
        self._special = _Stripping(vocabulary.prompt_ids, list(added.values()))


class _Stripping(SpecialTokens):
    def __init__(self, strings: Collection[str], added: list[dict[str, Any]]) -> None:
        super().__init__(strings)
        self._left = {token["content"] for token in added if token["lstrip"]}
        self._right = {token["content"] for token in added if token["rstrip"]}

    def split(self, text: str) -> list[str]:
        parts = super().split(text)
        for i in range(1, len(parts), 2):
            if parts[i] in self._left:
                parts[i - 1] = parts[i - 1].rstrip()
            if parts[i] in self._right:
                parts[i + 1] = parts[i + 1].lstrip()
        return parts


def _backend(state: dict[str, Any]) -> Backend:
    backend: Backend = Backend.from_str(json.dumps({**state, "truncation": None, "padding": None}))
    shut_out(backend, [token["content"] for token in state["added_tokens"] if token["special"]])
    return backend


def _without_first_space(state: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer for text that does not begin the prompt."""

    def change(part: Any) -> Any:
        if isinstance(part, list):
            return [change(each) for each in part]
        if not isinstance(part, dict):
            return part
        new = {key: change(value) for key, value in part.items()}
        if new.get("prepend_scheme") == "first":
            new["prepend_scheme"] = "never"
        return new

    return {**state, "pre_tokenizer": change(state["pre_tokenizer"])}


def _vocabulary(backend: Backend, added: dict[int, dict[str, Any]], named: NamedTokens) -> Vocabulary:
    ids = backend.get_vocab(with_added_tokens=True)
    tokens = [""] * (max(ids.values(), default=-1) + 1)
    for token, i in ids.items():
        tokens[i] = token
    special = {i for i, token in added.items() if token["special"]}
    # Tool and fill-in tokens are text in answers; those that the tokenizer itself names are not.
    marks, own_ends = harmony_ids(tokens)
    ends = (named.ends | own_ends) - marks
    silent = {*named.all_ids, *ends, *marks} & set(range(len(tokens)))
    types = [int(TokenType.NORMAL)] * len(tokens)
    for i in added:
        types[i] = int(TokenType.USER_DEFINED)
    for i in silent:
        types[i] = int(TokenType.CONTROL)
    return Vocabulary(
        tokens=tokens,
        types=types,
        bos_id=named.bos,
        eos_id=named.eos,
        unknown_id=named.unknown,
        eos_ids=ends,
        special_ids=frozenset(silent),
        prompt_ids={tokens[i]: i for i in sorted(special | silent) if tokens[i]},
    )


def _kinds(part: Any) -> set[str]:
    """The types of a decoder and its parts; `▁` for one that replaces it."""
    if isinstance(part, list):
        return set().union(*map(_kinds, part))
    if not isinstance(part, dict):
        return set()
    kinds = {part["type"]} if isinstance(part.get("type"), str) else set()
    if part.get("type") == "Replace" and part.get("pattern") == {"String": "▁"}:
        kinds.add("▁")
    return kinds | _kinds(part.get("decoders"))


def _token_bytes(backend: Backend, vocabulary: Vocabulary, kinds: set[str]) -> list[bytes]:
    """What each token adds to a text, by the kind of the decoder."""
    if "ByteLevel" in kinds:
        return bytes_of(vocabulary)
    anchor = next((i for i, token in enumerate(vocabulary.tokens) if token.isalpha()), 0)
    length = len(backend.decode([anchor], skip_special_tokens=False))

    def spell(i: int, token: str) -> bytes:
        if vocabulary.types[i] == TokenType.USER_DEFINED:
            return token.encode()
        if kinds & {"Metaspace", "▁", "ByteFallback"}:
            byte = _BYTE.fullmatch(token) if "ByteFallback" in kinds else None
            return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()
        # Word pieces and the like: what the decoder makes of it behind a word.
        return backend.decode([anchor, i], skip_special_tokens=False)[length:].encode()

    silent_ids = vocabulary.silent_ids
    return [
        b"" if i in silent_ids or not token else spell(i, token) for i, token in enumerate(vocabulary.tokens)
    ]
