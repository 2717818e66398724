"""Write a GGUF file of random weights in the shape of Granite 4's dense hybrids, as random_model.py does.

    python benchmarks/random_granite_hybrid.py 350m q4_0 /tmp/random-granite-h-350m-q4_0.gguf

Sizes are those of Granite 4.0 H-350M and H-1B: four layers are attention, the others Mamba-2. The embedding
is Q8_0.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from random_model import FILE_TYPES, KINDS, add_tokenizer, values_of

from llm_serving.checkpoints import open_checkpoint
from llm_serving.models import resolve_model

VOCABULARY = 100_352
STATE, MAMBA_HEADS = 128, 48
HEADS, KEY_HEADS = 12, 4

Description = tuple[str, tuple[int, ...], gguf.GGMLQuantizationType]


@dataclass(frozen=True)
class Shape:
    hidden: int
    ffn: int
    layers: int
    attending: tuple[int, ...]

    @property
    def inner(self) -> int:
        return 2 * self.hidden


SHAPES = {
    "350m": Shape(768, 2048, 32, (10, 13, 17, 27)),
    "1b": Shape(1536, 4096, 40, (5, 15, 25, 35)),
}


def tensors_of(shape: Shape, kind: gguf.GGMLQuantizationType) -> Iterator[Description]:
    """(name, shape in numpy order, type) of every tensor."""
    f32, hidden, inner = gguf.GGMLQuantizationType.F32, shape.hidden, shape.inner
    keys, channels = hidden // HEADS * KEY_HEADS, inner + 2 * STATE
    yield "token_embd.weight", (VOCABULARY, hidden), gguf.GGMLQuantizationType.Q8_0
    yield "output_norm.weight", (hidden,), f32
    for i in range(shape.layers):
        block = f"blk.{i}."
        yield block + "attn_norm.weight", (hidden,), f32
        yield block + "ffn_norm.weight", (hidden,), f32
        if i in shape.attending:
            rows = (("attn_q", hidden), ("attn_k", keys), ("attn_v", keys), ("attn_output", hidden))
            for name, count in rows:
                yield f"{block}{name}.weight", (count, hidden), kind
        else:
            yield block + "ssm_in.weight", (inner + channels + MAMBA_HEADS, hidden), kind
            yield block + "ssm_conv1d.weight", (channels, 4), f32
            yield block + "ssm_conv1d.bias", (channels,), f32
            yield block + "ssm_dt.bias", (MAMBA_HEADS,), f32
            yield block + "ssm_a", (MAMBA_HEADS, 1), f32
            yield block + "ssm_d", (MAMBA_HEADS, 1), f32
            yield block + "ssm_norm.weight", (1, inner), f32
            yield block + "ssm_out.weight", (hidden, inner), kind
        yield block + "ffn_gate.weight", (shape.ffn, hidden), kind
        yield block + "ffn_up.weight", (shape.ffn, hidden), kind
        yield block + "ffn_down.weight", (hidden, shape.ffn), kind


def write_model(shape: Shape, kind: str, path: Path) -> None:
    writer = gguf.GGUFWriter(path, "granitehybrid")
    writer.add_name(path.stem)
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(2)
    writer.add_context_length(1 << 20)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv([KEY_HEADS if i in shape.attending else 0 for i in range(shape.layers)])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_scaling_finetuned(False)
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_group_count(1)
    writer.add_ssm_time_step_rank(MAMBA_HEADS)
    writer.add_ssm_inner_size(shape.inner)
    writer.add_embedding_scale(12.0)
    writer.add_attention_scale(1 / 64)
    writer.add_residual_scale(0.22)
    writer.add_logit_scale(6.0)
    writer.add_vocab_size(VOCABULARY)
    add_tokenizer(writer, open_checkpoint(resolve_model("smollm2-135m-instruct")), VOCABULARY)
    rng = np.random.default_rng(0)
    for name, dims, type_ in tensors_of(shape, KINDS[kind]):
        values = values_of(name, dims, type_, rng)
        if name.endswith("ssm_a"):
            values = -np.abs(values)
        writer.add_tensor(name, values, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("kind", choices=("q4_0", "q4_k", "q8_0"))
    parser.add_argument("path", type=Path)
    arguments = parser.parse_args()
    write_model(SHAPES[arguments.shape], arguments.kind, arguments.path)
    print(f"{arguments.path}: {arguments.path.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
