"""A GGUF file's tokenizer as encoders use it: WordPiece, Unigram, and the two kinds of BPE.

How the keys and spellings come about: `convert_hf_to_gguf.py` of llama.cpp.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from llm_serving.checkpoints.checkpoint import Checkpoint
from llm_serving.checkpoints.encoder_vocabulary import EncoderVocabulary, SpecialFrame
from llm_serving.checkpoints.sentencepiece import SPACE
from llm_serving.checkpoints.tokenizer import build_gguf_tokenizer
from llm_serving.checkpoints.tokenizer_library import decode_plain, encode_plain, no_panic, try_out
from llm_serving.checkpoints.vocabulary import (
    TokenType,
    Vocabulary,
    flag,
    problem,
    read_vocabulary,
    token_id,
    token_scores,
)


def read_gguf_vocabulary(checkpoint: Checkpoint) -> EncoderVocabulary:
    """Raises: CheckpointError, naming the metadata key, if the vocabulary is damaged or of no known kind."""
    kind = str(checkpoint.metadata.get("tokenizer.ggml.model"))
    with no_panic(f"{checkpoint.path}: the tokenizer cannot be built"):
        if kind == "bert":
            return _wordpiece(checkpoint)
        if kind == "t5":
            return _unigram(checkpoint)
        if kind in ("gpt2", "llama"):
            return _byte_pairs(checkpoint)
    raise problem(
        checkpoint, "tokenizer.ggml.model", f"is {kind[:40]!r}; the known ones are bert, t5, gpt2 and llama"
    )


def _wordpiece(checkpoint: Checkpoint) -> EncoderVocabulary:
    """WordPiece (Devlin et al. 2018). Words begin with "▁" in the file, and with nothing in the model."""
    vocabulary = read_vocabulary(checkpoint)
    unknown, cls, sep = (
        _named(checkpoint, vocabulary, keys, default)
        for keys, default in (
            (("unknown",), "[UNK]"),
            (("cls", "bos"), "[CLS]"),
            (("seperator", "eos"), "[SEP]"),  # the format's own spelling
        )
    )
    # Special tokens stay outside, so that no text can ever become one; text needs the unknown one.
    ids = {vocabulary.tokens[unknown]: unknown}
    added = []
    for i, token in enumerate(vocabulary.tokens):
        if vocabulary.types[i] in (TokenType.NORMAL, TokenType.USER_DEFINED) and i not in (cls, sep):
            word = token[1:] if token.startswith(SPACE) and token != SPACE else f"##{token}"
            ids.setdefault(word, i)
            if vocabulary.types[i] == TokenType.USER_DEFINED and i == ids[word]:
                added.append(AddedToken(word))
    # Files do not always say; a vocabulary without capitals, but in [MASK] and the like, is lower-case.
    cased = any(word != word.lower() and not word.endswith("]") for word in ids)
    lowercase = flag(checkpoint, "tokenizer.ggml.normalizer.lowercase", not cased)
    backend = Tokenizer(models.WordPiece(ids, unk_token=vocabulary.tokens[unknown]))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase,
        strip_accents=flag(checkpoint, "tokenizer.ggml.normalizer.strip_accents", lowercase),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_tokens(added)
    special = vocabulary.special_ids | {unknown, cls, sep}
    return _encoder_vocabulary(checkpoint, backend, vocabulary, special, _frame((cls,), (sep,), (sep,)))


def _unigram(checkpoint: Checkpoint) -> EncoderVocabulary:
    """Unigram (Kudo 2018), with the normalisation the file brings along."""
    vocabulary = read_vocabulary(checkpoint)
    unknown = _named(checkpoint, vocabulary, ("unknown",), "<unk>")
    scores = token_scores(checkpoint, len(vocabulary.tokens)).astype(np.float64).tolist()
    # No text has a space once words are marked, so a piece with one stands for its place in the table only.
    # Its score must not count either: the worst one decides what an unknown character costs.
    silent = vocabulary.special_ids | {unknown}
    pieces = [
        (f" {i}", 0.0) if i in silent else (token, scores[i]) for i, token in enumerate(vocabulary.tokens)
    ]
    backend = Tokenizer(models.Unigram(pieces, unknown, TokenType.BYTE in vocabulary.types))
    charsmap = checkpoint.metadata.get("tokenizer.ggml.precompiled_charsmap")
    if charsmap is not None:
        if not isinstance(charsmap, np.ndarray) or charsmap.dtype.itemsize != 1:
            raise problem(checkpoint, "tokenizer.ggml.precompiled_charsmap", "is not a list of bytes")
        backend.normalizer = normalizers.Precompiled(charsmap.tobytes())
    prepends = flag(checkpoint, "tokenizer.ggml.add_space_prefix", True)
    marks = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always" if prepends else "never")
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), marks])
    backend.decoder = decoders.Metaspace(SPACE, prepend_scheme="always" if prepends else "never")
    user_defined = vocabulary.ids_of(TokenType.USER_DEFINED)
    backend.add_tokens([AddedToken(token, normalized=False) for token in user_defined])
    opening = _added(checkpoint, "bos", vocabulary.bos_id, False)
    closing = _added(checkpoint, "eos", vocabulary.eos_id, True)
    frame = _frame(opening, closing * 2, closing) if opening else _frame((), closing, closing)
    return _encoder_vocabulary(checkpoint, backend, vocabulary, frozenset(silent), frame)


def _byte_pairs(checkpoint: Checkpoint) -> EncoderVocabulary:
    tokenizer = build_gguf_tokenizer(checkpoint)
    # RoBERTa writes two tokens between the texts of a pair, all others one.
    pre = str(checkpoint.metadata.get("tokenizer.ggml.pre"))
    doubled = pre == "roberta-bpe" or pre.startswith("jina-v")
    opening = (tokenizer.bos_id,) if tokenizer.adds_bos and tokenizer.bos_id is not None else ()
    closing = _added(checkpoint, "eos", tokenizer.eos_id, False)
    return EncoderVocabulary(
        encode=tokenizer.encode_batch,
        decode=tokenizer.decode,
        frame=_frame(opening, closing * 2 if doubled else closing, closing),
        vocab_size=tokenizer.vocab_size,
        special_ids=tokenizer.special_ids,
        prompt_ids=tokenizer.prompt_ids,
    )


def _encoder_vocabulary(
    checkpoint: Checkpoint,
    backend: Tokenizer,
    vocabulary: Vocabulary,
    special_ids: frozenset[int],
    frame: SpecialFrame,
) -> EncoderVocabulary:
    try_out(checkpoint.path, backend)
    return EncoderVocabulary(
        encode=partial(encode_plain, checkpoint.path, backend),
        decode=partial(decode_plain, checkpoint.path, backend),
        frame=frame,
        vocab_size=len(vocabulary.tokens),
        special_ids=special_ids,
        prompt_ids={vocabulary.tokens[i]: i for i in special_ids if vocabulary.tokens[i]},
    )


def _frame(opening: tuple[int, ...], between: tuple[int, ...], closing: tuple[int, ...]) -> SpecialFrame:
    return SpecialFrame(opening, closing, opening, between, closing)


def _added(checkpoint: Checkpoint, name: str, special_id: int | None, default: bool) -> tuple[int, ...]:
    """The token if the file says that the tokenizer adds it."""
    if not flag(checkpoint, f"tokenizer.ggml.add_{name}_token", default):
        return ()
    if special_id is None:
        raise problem(
            checkpoint, f"tokenizer.ggml.{name}_token_id", "is missing, and is to be added to texts"
        )
    return (special_id,)


def _named(checkpoint: Checkpoint, vocabulary: Vocabulary, keys: tuple[str, ...], default: str) -> int:
    """The id under the first of these keys that is there, else that of the usual spelling."""
    for key in keys:
        found = token_id(checkpoint, f"tokenizer.ggml.{key}_token_id", len(vocabulary.tokens))
        if found is not None:
            return found
    if default not in vocabulary.tokens:
        raise problem(checkpoint, f"tokenizer.ggml.{keys[0]}_token_id", f"is missing, and so is {default}")
    return vocabulary.tokens.index(default)
