"""Byte-level BPE (`tokenizer.ggml.model` = gpt2; Radford et al. 2019): every byte is a letter."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, models

from llm_serving.checkpoints.checkpoint import Checkpoint
from llm_serving.checkpoints.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from llm_serving.checkpoints.vocabulary import TokenType, Vocabulary, problem, read_merges
from llm_serving.errors import CheckpointError

# GPT-2's spelling: visible Latin-1 characters stand for themselves, the other 68 bytes for U+0100 and on.
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in set(_VISIBLE)]
_BYTE_OF_LETTER = {0x100 + i: byte for i, byte in enumerate(_HIDDEN)}


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
    merges = read_merges(checkpoint, ids, vocabulary.prompt_ids)
    try:
        model = models.BPE(vocab=ids, merges=merges, ignore_merges=rule.ignore_merges)
    except Exception as error:  # the library raises nothing more precise
        raise CheckpointError(f"{checkpoint.path}: the merges do not fit the vocabulary: {error}.") from error
    tokenizer = Tokenizer(model)
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
    out = []
    for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True):
        if kind == TokenType.USER_DEFINED:
            out.append(token.encode())
            continue
        try:
            out.append(token.translate(_BYTE_OF_LETTER).encode("latin-1"))
        except UnicodeEncodeError:  # spelled outside the alphabet: it stands for itself
            out.append(token.encode())
    for i in vocabulary.silent_ids:
        out[i] = b""
    return out
