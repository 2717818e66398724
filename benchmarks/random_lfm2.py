"""Write a GGUF file of random weights in the shape of LFM2, as random_model.py does of others.

    python benchmarks/random_lfm2.py 1.2b q4_0 /tmp/random-lfm2-1.2b-q4_0.gguf

Sizes are those of LFM2 350M, 700M and 1.2B: 16 layers, six of them attention; the embedding is Q8_0.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from random_model import FILE_TYPES, KINDS, add_tokenizer, values_of

from llm_serving.checkpoints import open_checkpoint
from llm_serving.models import resolve_model

VOCABULARY = 65_536
LAYERS, ATTENDING, TAPS = 16, (2, 5, 8, 10, 12, 14), 3
HEAD_DIM, KEY_HEADS = 64, 8
SHAPES = {"350m": (1024, 4608), "700m": (1536, 6912), "1.2b": (2048, 8192)}  # hidden, feed-forward

Description = tuple[str, tuple[int, ...], gguf.GGMLQuantizationType]


def tensors_of(hidden: int, ffn: int, kind: gguf.GGMLQuantizationType) -> Iterator[Description]:
    """(name, shape in numpy order, type) of every tensor."""
    f32, keys = gguf.GGMLQuantizationType.F32, HEAD_DIM * KEY_HEADS
    yield "token_embd.weight", (VOCABULARY, hidden), gguf.GGMLQuantizationType.Q8_0
    yield "token_embd_norm.weight", (hidden,), f32
    for i in range(LAYERS):
        block = f"blk.{i}."
        yield block + "attn_norm.weight", (hidden,), f32
        yield block + "ffn_norm.weight", (hidden,), f32
        if i in ATTENDING:
            for name, rows in (
                ("attn_q", hidden),
                ("attn_k", keys),
                ("attn_v", keys),
                ("attn_output", hidden),
            ):
                yield f"{block}{name}.weight", (rows, hidden), kind
            yield block + "attn_q_norm.weight", (HEAD_DIM,), f32
            yield block + "attn_k_norm.weight", (HEAD_DIM,), f32
        else:
            yield block + "shortconv.in_proj.weight", (3 * hidden, hidden), kind
            yield block + "shortconv.conv.weight", (hidden, TAPS), f32
            yield block + "shortconv.out_proj.weight", (hidden, hidden), kind
        yield block + "ffn_gate.weight", (ffn, hidden), kind
        yield block + "ffn_up.weight", (ffn, hidden), kind
        yield block + "ffn_down.weight", (hidden, ffn), kind


def write_model(hidden: int, ffn: int, kind: str, path: Path) -> None:
    writer = gguf.GGUFWriter(path, "lfm2")
    writer.add_name(path.stem)
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(2)
    writer.add_context_length(128_000)
    writer.add_embedding_length(hidden)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(hidden // HEAD_DIM)
    writer.add_head_count_kv([KEY_HEADS if i in ATTENDING else 0 for i in range(LAYERS)])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e6)
    writer.add_shortconv_l_cache(TAPS)
    writer.add_vocab_size(VOCABULARY)
    add_tokenizer(writer, open_checkpoint(resolve_model("smollm2-135m-instruct")), VOCABULARY)
    rng = np.random.default_rng(0)
    for name, dims, type_ in tensors_of(hidden, ffn, KINDS[kind]):
        writer.add_tensor(name, values_of(name, dims, type_, rng), raw_dtype=type_)
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
    write_model(*SHAPES[arguments.shape], arguments.kind, arguments.path)
    print(f"{arguments.path}: {arguments.path.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
