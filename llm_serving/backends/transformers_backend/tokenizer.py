"""The tokenizer of a Hugging Face directory, as the same `Tokenizer` that GGUF files get.

AutoTokenizer reads whatever the directory holds and makes a fast tokenizer of it; from there on it is ours:
special tokens come from templates only, every token has its bytes, and encoding is thread-safe.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from llm_serving.checkpoints.byte_level import bytes_of
from llm_serving.checkpoints.special_tokens import SpecialTokens
from llm_serving.checkpoints.tokenizer import Tokenizer
from llm_serving.checkpoints.tokenizer_library import no_panic, shut_out
from llm_serving.checkpoints.vocabulary import TokenType, Vocabulary
from llm_serving.errors import CheckpointError

_LOOKS_SPECIAL = re.compile(r"<\|[^|<>]+\|>")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class DirectoryTokenizer(Tokenizer):
    """`chat_template` is the directory's Jinja source, None without one.

    Some special tokens swallow the white space beside them; `encode_prompt` does as the original does.
    """

    def __init__(self, original: Any, state: dict[str, Any], eos_ids: Collection[int]) -> None:
        added = {token["id"]: token for token in state["added_tokens"]}
        # What looks special must not come from a user's text either.
        for token in added.values():
            token["special"] = token["special"] or _LOOKS_SPECIAL.fullmatch(token["content"]) is not None
        first, later = _backend(state), _backend(_without_first_space(state))
        vocabulary = _vocabulary(original, first, added, eos_ids)
        kinds = _kinds(state["decoder"])
        super().__init__(
            vocabulary,
            _token_bytes(first, vocabulary, kinds),
            first,
            later,
            adds_bos=original("a").input_ids[:1] == [vocabulary.bos_id],
            strips_space="Strip" in kinds or "Metaspace" in kinds,
        )
        template = original.chat_template
        self.chat_template: str | None = (
            template.get("default") if isinstance(template, dict) else template
        ) or None
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


def read_tokenizer(directory: Path, eos_ids: Collection[int] = ()) -> DirectoryTokenizer:
    """`eos_ids` end an answer beside the tokenizer's own end. Raises: CheckpointError."""
    with no_panic(f"{directory}: the tokenizer cannot be read"):
        original = AutoTokenizer.from_pretrained(
            str(directory), trust_remote_code=False, local_files_only=True
        )
        backend = getattr(original, "backend_tokenizer", None)
        if backend is None:
            raise CheckpointError(
                f"{directory}: {type(original).__name__} is Python only; a tokenizer.json is needed."
            )
        return DirectoryTokenizer(original, json.loads(backend.to_str()), eos_ids)


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


def _vocabulary(
    original: Any, backend: Backend, added: dict[int, dict[str, Any]], eos_ids: Collection[int]
) -> Vocabulary:
    ids = backend.get_vocab(with_added_tokens=True)
    tokens = [""] * (max(ids.values(), default=-1) + 1)
    for token, i in ids.items():
        tokens[i] = token
    bos, eos, unknown = original.bos_token_id, original.eos_token_id, original.unk_token_id
    ends = {*eos_ids, *([] if eos is None else [eos])}
    special = {i for i, token in added.items() if token["special"]}
    # Tool and fill-in tokens are text in answers; those that the tokenizer itself names are not.
    silent = {*original.all_special_ids, *ends} & set(range(len(tokens)))
    types = [int(TokenType.NORMAL)] * len(tokens)
    for i in added:
        types[i] = int(TokenType.USER_DEFINED)
    for i in silent:
        types[i] = int(TokenType.CONTROL)
    return Vocabulary(
        tokens=tokens,
        types=types,
        bos_id=bos,
        eos_id=eos,
        unknown_id=unknown,
        eos_ids=frozenset(ends),
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

    return [
        b"" if i in vocabulary.special_ids or not token else spell(i, token)
        for i, token in enumerate(vocabulary.tokens)
    ]
