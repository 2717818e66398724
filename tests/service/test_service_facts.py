"""What lists of models say of files: by what is in them, without reading weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tiny_encoders import write_json, write_safetensors, write_tiny_bert
from tiny_models import write_tiny_llama
from tiny_quantized import float8

from llm_serving.checkpoints import open_checkpoint
from llm_serving.service.facts import facts_of, read_facts


def test_facts_of_a_gguf_file(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", kind="Q8_0")
    checkpoint = open_checkpoint(path)
    facts = facts_of(checkpoint)
    assert (facts.format, facts.quantization) == ("gguf", "Q8_0")
    assert facts.num_bytes == path.stat().st_size
    assert facts.modified_s == path.stat().st_mtime_ns / 1e9
    sizes = [tensor.shape for tensor in checkpoint.tensors.values()]
    matrices = sum(shape[0] * shape[1] for shape in sizes if len(shape) == 2)
    assert facts.num_parameters == matrices + sum(shape[0] for shape in sizes if len(shape) == 1)


def test_facts_of_a_directory(tmp_path: Path) -> None:
    facts = read_facts(write_tiny_bert(tmp_path / "bert"))
    assert facts is not None
    assert (facts.format, facts.quantization) == ("safetensors", "F32")
    assert facts.num_bytes == (tmp_path / "bert" / "model.safetensors").stat().st_size
    assert read_facts(tmp_path / "nothing") is None


def test_facts_of_packed_weights(tmp_path: Path) -> None:
    """Integers and floats are told by their method, whatever they become in memory."""
    codes, scales, _ = float8(np.ones((64, 64), np.float32), (64, 64))
    write_safetensors(tmp_path / "model.safetensors", {"a.weight": codes, "a.weight_scale_inv": scales})
    config = {"model_type": "llama", "quantization_config": {"quant_method": "fp8"}}
    write_json(tmp_path / "config.json", config)
    facts = read_facts(tmp_path)
    assert facts is not None
    assert (facts.quantization, facts.num_parameters) == ("FP8", 64 * 64)
