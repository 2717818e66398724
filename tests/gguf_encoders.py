"""GGUF files with the tokenizers of encoders, spelled as llama.cpp's converter spells them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf

_NORMAL, _UNKNOWN, _CONTROL = (
    gguf.TokenType.NORMAL,
    gguf.TokenType.UNKNOWN,
    gguf.TokenType.CONTROL,
)
_RULES = {"roberta": "roberta-bpe", "modernbert": "modern-bert", "qwen3": "qwen2"}


def write_gguf_tokenizer(path: Path, family: str, tokenizer: Any) -> Path:
    """Write a tokenizer of `transformers` into a GGUF without tensors. Returns `path`."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    special = set(tokenizer.all_special_ids)
    writer = gguf.GGUFWriter(path, {"xlm-roberta": "bert", "roberta": "bert"}.get(family, family))
    if model["type"] == "Unigram":
        tokens, scores = zip(*model["vocab"], strict=True)
        writer.add_tokenizer_model("t5")
        writer.add_token_scores(list(scores))
        unknown = model["unk_id"]
        types = [
            _UNKNOWN if i == unknown else _CONTROL if i in special else _NORMAL for i in range(len(tokens))
        ]
        writer.add_add_space_prefix(True)
    else:
        tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
        types = [_CONTROL if i in special else _NORMAL for i in range(len(tokens))]
        if model["type"] == "WordPiece":
            writer.add_tokenizer_model("bert")
            tokens = [phantom_space(t, kind) for t, kind in zip(tokens, types, strict=True)]
        else:
            writer.add_tokenizer_model("gpt2")
            writer.add_tokenizer_pre(
                {"roberta": "roberta-bpe", "modernbert": "modern-bert", "qwen3": "qwen2"}[family]
            )
            writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_token_list(list(tokens))
    writer.add_token_types(types)
    _add_special_ids(writer, tokenizer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def phantom_space(token: str, kind: int) -> str:
    """A WordPiece token in a GGUF: beginnings of words are marked instead of continuations."""
    if kind == _CONTROL:
        return token
    return token[2:] if token.startswith("##") else "▁" + token


def _add_special_ids(writer: gguf.GGUFWriter, tokenizer: Any) -> None:
    opening = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    closing = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    writer.add_add_bos_token(opening is not None)
    writer.add_add_eos_token(True)
    if opening is not None:
        writer.add_bos_token_id(opening)
    writer.add_eos_token_id(closing)
    writer.add_sep_token_id(closing)
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
