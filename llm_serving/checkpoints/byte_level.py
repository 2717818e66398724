"""Byte-level BPE (`tokenizer.ggml.model` = gpt2; Radford et al. 2019): every byte is a letter."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
from tokenizers import AddedToken, Tokenizer

from llm_serving.checkpoints.bpe import build_bpe
from llm_serving.checkpoints.checkpoint import Checkpoint
from llm_serving.checkpoints.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from llm_serving.checkpoints.vocabulary import TokenType, Vocabulary, problem

# GPT-2's spelling: visible Latin-1 characters stand for themselves, the other 68 bytes for U+0100 and on.
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in set(_VISIBLE)]
_BYTES = np.full(0x100 + len(_HIDDEN) + 1, -1)  # the byte that a letter stands for, -1 for none
_BYTES[:0x100] = range(0x100)
_BYTES[0x100 : 0x100 + len(_HIDDEN)] = _HIDDEN


def pre_tokenizer_of(checkpoint: Checkpoint) -> PreTokenizer:
    """Raises: CheckpointError that lists the known names."""
    name = checkpoint.metadata.get("tokenizer.ggml.pre", "default")
    rule = PRE_TOKENIZERS.get(name) if isinstance(name, str) else None
    if rule is None:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise problem(checkpoint, "tokenizer.ggml.pre", f"is {str(name)[:60]!r}; the known ones are {known}")
    return rule


def build_byte_level(checkpoint: Checkpoint, vocabulary: Vocabulary) -> Tokenizer:
    """The `tokenizers` object for plain text: no special tokens. Raises: CheckpointError."""
    rule = pre_tokenizer_of(checkpoint)
    # Special tokens stay outside, so that no text can ever become one.
    ids = vocabulary.ids_of(TokenType.NORMAL, TokenType.BYTE, TokenType.USER_DEFINED)
    left_out = vocabulary.prompt_ids
    tokenizer = Tokenizer(build_bpe(checkpoint, ids, left_out, ignore_merges=rule.ignore_merges))
    tokenizer.pre_tokenizer = rule.build()
    normalizer = rule.normalizer()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False) for token in vocabulary.ids_of(TokenType.USER_DEFINED)]
    )
    return tokenizer


def bytes_of(vocabulary: Vocabulary) -> list[bytes]:
    """What each token adds to the text; nothing for silent ones."""
    tokens = vocabulary.tokens
    letters = np.frombuffer("".join(tokens).encode("utf-32-le", "surrogatepass"), np.uint32)
    codes = _BYTES[np.minimum(letters, len(_BYTES) - 1)]  # a letter is a byte: all tokens at once
    spelled = codes.astype(np.uint8).tobytes()
    ends = list(accumulate(map(len, tokens)))
    out = [spelled[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    # What is spelled outside the alphabet stands for itself.
    outside = np.searchsorted(ends, np.flatnonzero(codes < 0), "right").tolist()
    for i in [*set(outside), *vocabulary.places_of(TokenType.USER_DEFINED)]:
        out[i] = tokens[i].encode()
    for i in vocabulary.silent_ids:
        out[i] = b""
    return out
