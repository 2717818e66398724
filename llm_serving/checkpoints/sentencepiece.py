"""SentencePiece-style BPE (`tokenizer.ggml.model` = llama): spaces are letters, "▁", and bytes a fallback.

Kudo & Richardson, "SentencePiece" (2018).
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from llm_serving.checkpoints.bpe import bpe_of, build_bpe, without_collection
from llm_serving.checkpoints.checkpoint import Checkpoint
from llm_serving.checkpoints.token_splits import split_tokens
from llm_serving.checkpoints.vocabulary import TokenType, Vocabulary, flag, problem, token_scores

SPACE = "▁"
SPACED = "sarvam-moe"  # `tokenizer.ggml.pre` of files that call such a vocabulary gpt2
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def adds_space_prefix(checkpoint: Checkpoint) -> bool:
    is_gpt2 = checkpoint.metadata.get("tokenizer.ggml.model") == "gpt2"
    default = not is_gpt2 and not checkpoint.architecture.startswith("gemma")
    return flag(checkpoint, "tokenizer.ggml.add_space_prefix", default)


def with_bytes(vocabulary: Vocabulary) -> Vocabulary:
    """For files that do not tell bytes from other tokens."""
    pairs = zip(vocabulary.tokens, vocabulary.types, strict=True)
    types: list[int] = [
        TokenType.BYTE if kind == TokenType.NORMAL and _BYTE.fullmatch(token) else kind
        for token, kind in pairs
    ]
    return replace(vocabulary, types=types)


def build_sentencepiece(checkpoint: Checkpoint, vocabulary: Vocabulary) -> tuple[Tokenizer, Tokenizer]:
    """The `tokenizers` objects for text at the start of a prompt and for text behind a special token.

    Raises: CheckpointError.
    """
    text_ids = vocabulary.ids_of(TokenType.NORMAL, TokenType.USER_DEFINED)
    user_defined = vocabulary.ids_of(TokenType.USER_DEFINED)
    # Files spell gemma's runs of spaces, user-defined tokens, with spaces; text reaches them through "▁".
    runs = {token: SPACE * len(token) for token in user_defined if not token.strip(" ")}
    ids = {runs.get(token, token): i for token, i in text_ids.items()}
    model = _model(checkpoint, vocabulary, ids)
    later = Tokenizer(model)
    spaced = normalizers.Replace(" ", SPACE)
    first = later
    if not adds_space_prefix(checkpoint):
        later.normalizer = spaced
    elif checkpoint.architecture in ("phi3", "phimoe"):
        # Whose published tokenizers put a space before every stretch of text.
        later.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaced])
    else:
        later.normalizer = spaced
        first = Tokenizer(model)
        first.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="first", split=False)
    added = [AddedToken(token, normalized=False) for token in user_defined if token in ids]
    for tokenizer in {id(first): first, id(later): later}.values():
        tokenizer.add_tokens(added)
    return first, later


def _model(checkpoint: Checkpoint, vocabulary: Vocabulary, ids: dict[str, int]) -> models.BPE:
    others = vocabulary.ids_of(TokenType.BYTE)
    unknown = None
    if vocabulary.unknown_id is not None:
        unknown = vocabulary.tokens[vocabulary.unknown_id]
        others[unknown] = vocabulary.unknown_id
    options = {"unk_token": unknown, "fuse_unk": True, "byte_fallback": True}
    if "tokenizer.ggml.merges" in checkpoint.metadata:
        return build_bpe(checkpoint, ids, vocabulary.prompt_ids, others, **options)
    with without_collection():
        return bpe_of(checkpoint, ids | others, _merges(checkpoint, ids), **options)


def _merges(checkpoint: Checkpoint, ids: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to join two tokens into a third, best first, as SentencePiece would choose.

    The order is the tokens' scores, or their place for gemma, whose scores are not those of its merges;
    then the longer left part first.
    """
    tokens = list(ids)
    whole, left, right = split_tokens(tokens)
    rank = _ranks(checkpoint)[np.fromiter(ids.values(), np.int64, len(ids))[whole]]
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))[left]
    order = np.lexsort((-lengths, rank))
    texts = np.array(tokens, object)
    return list(zip(texts[left[order]].tolist(), texts[right[order]].tolist(), strict=True))


def _ranks(checkpoint: Checkpoint) -> np.ndarray:
    """float64 [vocab_size]: the token with the smallest is merged first."""
    num_tokens = len(checkpoint.metadata["tokenizer.ggml.tokens"])
    if checkpoint.architecture.startswith("gemma"):
        return np.arange(num_tokens, dtype=np.float64)
    ranks: np.ndarray = -token_scores(checkpoint, num_tokens).astype(np.float64)
    return ranks


def bytes_of(checkpoint: Checkpoint, vocabulary: Vocabulary) -> list[bytes]:
    """What each token adds to the text; nothing for silent ones. Raises: CheckpointError."""
    out = [token.replace(SPACE, " ").encode() for token in vocabulary.tokens]
    for i in vocabulary.places_of(TokenType.BYTE):
        token = vocabulary.tokens[i]
        match = _BYTE.fullmatch(token)
        if match is None:
            key = "tokenizer.ggml.tokens"
            raise problem(checkpoint, key, f"[{i}] is a byte token named {token[:20]!r}, not <0xNN>")
        out[i] = bytes([int(match[1], 16)])
    for i in vocabulary.silent_ids:
        out[i] = b""
    return out
