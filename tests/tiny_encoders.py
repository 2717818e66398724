"""Tiny random encoders in Hugging Face directories, written without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

_DTYPES = {
    "f4": "F32",
    "f2": "F16",
    "f8": "F64",
    "i8": "I64",
    "i4": "I32",
    "i1": "I8",
    "u1": "U8",
    "V1": "F8_E4M3",
}


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], *, bfloat16: bool = False) -> Path:
    """Write arrays in the order given; with `bfloat16`, float32 ones lose their lower halves."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, array in tensors.items():
        kind = _DTYPES[array.dtype.str[1:]]
        content = np.ascontiguousarray(array)
        if bfloat16 and kind == "F32":
            kind, content = "BF16", (content.view("<u4") >> 16).astype("<u2")
        begin = len(data)
        data += content.tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [begin, len(data)]}
    return write_raw_safetensors(path, header, bytes(data))


def write_raw_safetensors(path: Path, header: Any, data: bytes) -> Path:
    """Whatever the header says, true or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")
    return path


# fmt: off
WORDS = [
    "the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "as", "was", "with", "on", "by", "he",
    "at", "this", "from", "we", "hello", "world", "paris", "france",
]
ENDINGS = ["s", "ed", "ing", "er", "ly", "est", "tion", "al"]
# fmt: on
_LETTERS = [chr(code) for code in range(33, 127) if not chr(code).isupper()] + list("äöüéàñ中国日本🤖")
BERT_VOCAB = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *_LETTERS,
    *(f"##{c}" for c in _LETTERS if c.isalnum()),
]
BERT_VOCAB += [word for word in WORDS if len(word) > 1] + [
    f"##{ending}" for ending in ENDINGS if len(ending) > 1
]


@dataclass(frozen=True)
class TinyBert:
    """What to write. With `labels`, a cross-encoder: names begin with `bert.`, and a classifier follows."""

    layers: int = 2
    hidden: int = 64
    heads: int = 4
    ffn: int = 96
    vocab: int = len(BERT_VOCAB)
    positions: int = 64
    segments: int = 2
    labels: int = 0
    pooling: str | None = "mean"  # mean, cls, max, lasttoken, …; None: no files of sentence-transformers
    normalize: bool = True
    max_tokens: int | None = None
    activation: str = "gelu"
    bfloat16: bool = False
    seed: int = 0
    family: str = "bert"  # or roberta, xlm-roberta: the same tensors, positions counted from 2


def write_tiny_bert(directory: Path, **shape: Any) -> Path:
    """Write a random BERT as `transformers` would save it; keywords are TinyBert's. Returns `directory`."""
    bert = TinyBert(**shape)
    write_json(directory / "config.json", _bert_config(bert))
    write_safetensors(directory / "model.safetensors", bert_tensors(bert), bfloat16=bert.bfloat16)
    write_bert_tokenizer(directory, bert.vocab, max_tokens=bert.positions)
    if bert.pooling is not None and not bert.labels:
        write_modules(directory, bert.hidden, bert.pooling, normalize=bert.normalize)
        write_json(directory / "sentence_bert_config.json", {"max_seq_length": bert.max_tokens})
    return directory


def _bert_config(bert: TinyBert) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": ["BertForSequenceClassification" if bert.labels else "BertModel"],
        "model_type": bert.family,
        "hidden_size": bert.hidden,
        "num_hidden_layers": bert.layers,
        "num_attention_heads": bert.heads,
        "intermediate_size": bert.ffn,
        "hidden_act": bert.activation,
        "layer_norm_eps": 1e-12,
        "vocab_size": bert.vocab,
        "max_position_embeddings": bert.positions,
        "type_vocab_size": bert.segments,
        "position_embedding_type": "absolute",
        "pad_token_id": 0 if bert.family == "bert" else 1,
    }
    if bert.labels:
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(bert.labels)}
        config["label2id"] = {f"LABEL_{i}": i for i in range(bert.labels)}
    return config


def bert_tensors(bert: TinyBert) -> dict[str, np.ndarray]:
    """float32 arrays by the names of `transformers`."""
    rng = np.random.default_rng(bert.seed)
    prefix = "bert." if bert.labels else ""
    out: dict[str, np.ndarray] = {}

    def normal(name: str, *shape: int, mean: float = 0.0, deviation: float = 0.1) -> None:
        out[prefix + name] = rng.normal(mean, deviation, shape).astype(np.float32)

    def linear(name: str, rows: int, columns: int, gain: float = 1.0) -> None:
        normal(f"{name}.weight", rows, columns, deviation=gain / columns**0.5)
        normal(f"{name}.bias", rows)

    def norm(name: str) -> None:
        normal(f"{name}.weight", bert.hidden, mean=1.0, deviation=0.2)
        normal(f"{name}.bias", bert.hidden)

    out[f"{prefix}embeddings.position_ids"] = np.arange(bert.positions)[None]
    normal("embeddings.word_embeddings.weight", bert.vocab, bert.hidden, deviation=1.0)
    normal("embeddings.position_embeddings.weight", bert.positions, bert.hidden, deviation=0.3)
    normal("embeddings.token_type_embeddings.weight", bert.segments, bert.hidden, deviation=0.3)
    norm("embeddings.LayerNorm")
    for i in range(bert.layers):
        layer = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            # Sharper queries and keys, or attention over random tokens is a plain mean.
            gain = 1.0 if part == "value" else 1.5
            linear(f"{layer}.attention.self.{part}", bert.hidden, bert.hidden, gain)
        linear(f"{layer}.attention.output.dense", bert.hidden, bert.hidden)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", bert.ffn, bert.hidden)
        linear(f"{layer}.output.dense", bert.hidden, bert.ffn)
        norm(f"{layer}.output.LayerNorm")
    linear("pooler.dense", bert.hidden, bert.hidden)
    if bert.labels:
        prefix = ""
        linear("classifier", bert.labels, bert.hidden)
    return out


def write_bert_tokenizer(
    directory: Path, vocab: int = len(BERT_VOCAB), *, lower_case: bool = True, max_tokens: int = 512
) -> list[str]:
    """Write `tokenizer.json` and `tokenizer_config.json` with WordPiece; return the tokens."""
    if vocab < len(BERT_VOCAB):
        raise ValueError(f"vocab must be at least {len(BERT_VOCAB)}, got {vocab}")
    tokens = BERT_VOCAB + [f"[unused{i}]" for i in range(vocab - len(BERT_VOCAB))]
    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(tokens[:5])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": lower_case, "model_max_length": max_tokens}
    write_json(directory / "tokenizer_config.json", config)
    return tokens


def write_modules(directory: Path, width: int, pooling: str, *, normalize: bool = True) -> None:
    """The files of sentence-transformers: a transformer, a pooling, length one."""
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{kind}" if i else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]
    write_json(directory / "modules.json", modules)
    modes = (
        "cls_token",
        "max_tokens",
        "mean_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
        "lasttoken",
    )
    chosen = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}.get(pooling, pooling)
    config: dict[str, Any] = {f"pooling_mode_{mode}": mode == chosen for mode in modes}
    write_json(directory / "1_Pooling/config.json", {"word_embedding_dimension": width, **config})
