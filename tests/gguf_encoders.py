"""GGUF files of encoders, named and spelled as llama.cpp's converter does it: tensors, keys, tokenizers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import gguf
import numpy as np
from tokenizers import Tokenizer

from llm_serving.checkpoints import Checkpoint, dequantize, open_checkpoint

_NORMAL, _UNKNOWN, _CONTROL = (
    gguf.TokenType.NORMAL,
    gguf.TokenType.UNKNOWN,
    gguf.TokenType.CONTROL,
)
# What each family of `transformers` is called in GGUF files.
ARCHITECTURES = {
    "bert": gguf.MODEL_ARCH.BERT,
    "distilbert": gguf.MODEL_ARCH.BERT,
    "roberta": gguf.MODEL_ARCH.BERT,
    "xlm-roberta": gguf.MODEL_ARCH.BERT,
    "nomic_bert": gguf.MODEL_ARCH.NOMIC_BERT,
    "modernbert": gguf.MODEL_ARCH.MODERN_BERT,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
_ALIBI = "alibi"  # of `position_embedding_type`, by which a bert is a jina-bert
_LEFT_OUT = ("position_ids", "pooler.dense.weight", "pooler.dense.bias", "mlp.experts.bias")
# What the converter writes for Qwen3-Reranker.
RERANK_TEMPLATE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
    'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
    "<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
POOLING = {"mean": gguf.PoolingType.MEAN, "cls": gguf.PoolingType.CLS, "last": gguf.PoolingType.LAST}


def write_gguf_encoder(
    path: Path,
    directory: Path,
    tokenizer: Any = None,
    *,
    pooling: gguf.PoolingType | None = None,
    kind: str = "F32",
    renamed: Mapping[str, str] = MappingProxyType({}),
    answers: Sequence[int] = (),
    labels: Sequence[str] = (),
) -> Path:
    """Convert a Hugging Face directory; matrices become `kind`. Returns `path`.

    `renamed` has names of its own for tensors, or what the converter leaves out. `answers` are the tokens yes
    and no of a language model that ranks, `labels` the names of a classifier's classes.
    """
    checkpoint = open_checkpoint(directory)
    family = checkpoint.architecture
    architecture = ARCHITECTURES[family]
    if checkpoint.metadata.get("position_embedding_type") == _ALIBI:
        architecture = gguf.MODEL_ARCH.JINA_BERT_V2
    experts = checkpoint.metadata.get("num_experts", 0)
    if experts:
        architecture = gguf.MODEL_ARCH.NOMIC_BERT_MOE
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    _add_keys(writer, checkpoint)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    if tokenizer is not None:
        _add_tokenizer(writer, family, tokenizer)
    if answers:
        writer.add_array("qwen3.classifier.output_labels", ["yes", "no"])
        writer.add_string("tokenizer.chat_template.rerank", RERANK_TEMPLATE)
    if labels:
        name = gguf.MODEL_ARCH_NAMES[architecture]
        writer.add_array(gguf.Keys.Classifier.OUTPUT_LABELS.format(arch=name), list(labels))
    names = gguf.get_tensor_name_map(architecture, 99)
    for name, tensor in checkpoint.tensors.items():
        stem, _, suffix = name.rpartition(".")
        if name.endswith(_LEFT_OUT) and stem not in renamed:
            continue
        values = dequantize(tensor)
        if answers and stem == "lm_head":
            _add_tensor(writer, "cls.output.weight", values[list(answers)], "F32")
            continue
        if name.endswith("position_embeddings.weight"):
            values = values[_position_offset(checkpoint) :]
        if stem.endswith("experts.mlp"):
            name += ".weight"
            values = values.reshape(experts, -1, values.shape[1])
            values = np.ascontiguousarray(values.swapaxes(1, 2)) if suffix == "w2" else values
        mapped = names.get_name(_mapped(name, family), (".weight", ".bias"))
        new = f"{renamed[stem]}.{suffix}" if stem in renamed else mapped
        assert new is not None, name
        _add_tensor(writer, new, values, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tensor(writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind: str) -> None:
    is_matrix = values.ndim > 1 and name not in ("position_embd.weight", "token_types.weight")
    if kind == "F32" or not is_matrix:
        writer.add_tensor(name, values)
    else:
        to = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quants.quantize(values, to), raw_dtype=to)


def _mapped(name: str, family: str) -> str:
    """The name that the table of `gguf` knows."""
    for prefix in ("bert.", "roberta.", "distilbert.", "nomic_bert."):
        name = name.removeprefix(prefix)
    if family == "qwen3":
        return f"model.{name.removeprefix('model.')}"
    if family == "modernbert":
        name = name.removeprefix("model.")
    if family in ("bert", "distilbert", "modernbert") and name.startswith("classifier."):
        return name.replace("classifier.", "classifier.out_proj.")
    return name


def _position_offset(checkpoint: Checkpoint) -> int:
    is_roberta = checkpoint.architecture in ("roberta", "xlm-roberta")
    return int(checkpoint.metadata["pad_token_id"]) + 1 if is_roberta else 0


def _add_keys(writer: gguf.GGUFWriter, checkpoint: Checkpoint) -> None:
    config = checkpoint.metadata

    def first(*keys: str) -> Any:
        return next(config[key] for key in keys if config.get(key) is not None)

    writer.add_context_length(config["max_position_embeddings"] - _position_offset(checkpoint))
    writer.add_embedding_length(first("hidden_size", "dim"))
    writer.add_feed_forward_length(first("intermediate_size", "hidden_dim"))
    writer.add_block_count(first("num_hidden_layers", "n_layers"))
    writer.add_head_count(first("num_attention_heads", "n_heads"))
    if checkpoint.architecture == "qwen3":
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    elif checkpoint.architecture == "modernbert":
        writer.add_layer_norm_rms_eps(config["norm_eps"])
        writer.add_string("modern-bert.hidden_activation", config["hidden_activation"])
        writer.add_sliding_window(config["local_attention"])
        pooled = POOLING[config["classifier_pooling"]]
        writer.add_uint32("modern-bert.classifier.pooling_type", pooled)
        writer.add_rope_freq_base(config["rope_parameters"]["full_attention"]["rope_theta"])
        writer.add_rope_freq_base_swa(config["rope_parameters"]["sliding_attention"]["rope_theta"])
    else:
        writer.add_causal_attention(False)
        writer.add_layer_norm_eps(config.get("layer_norm_eps", 1e-12))
    if config.get("num_experts"):
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["moe_top_k"])
        writer.add_moe_every_n_layers(config["moe_every_n_layers"])
    if checkpoint.architecture in ("qwen3", "nomic_bert"):
        writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])


def tiny_bert_tokenizer(directory: Path) -> Any:
    """What `write_tiny_bert` wrote, with the part of transformers' interface that is used here."""
    return SimpleNamespace(
        backend_tokenizer=Tokenizer.from_file(str(directory / "tokenizer.json")),
        all_special_ids=range(5),
        pad_token_id=0,
        unk_token_id=1,
        cls_token_id=2,
        sep_token_id=3,
    )


def write_gguf_tokenizer(path: Path, family: str, tokenizer: Any) -> Path:
    """Write a tokenizer of `transformers` into a GGUF without tensors. Returns `path`."""
    architecture = ARCHITECTURES.get(family)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture] if architecture else family)
    _add_tokenizer(writer, family, tokenizer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, family: str, tokenizer: Any) -> None:
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    special = set(tokenizer.all_special_ids)
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
