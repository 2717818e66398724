"""How long one picture takes in the sizes of Gemma 3's eyes, of random weights, and what memory that needs.

    python benchmarks/picture.py --repeats 3

SigLIP So400m over 896 x 896 pixels, 4096 patches in 27 layers, to 256 rows of 2560 numbers, as 4 B has them.
All layers have the same weights: they take as long as others. `--layers` leaves out some, for a first look.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np

from llm_serving.architectures import describe_vision
from llm_serving.checkpoints import Checkpoint, Tensor
from llm_serving.native.cpu import cpu_budget
from llm_serving.native.vision import NativeVision
from llm_serving.native.vision_plan import vision_need

TILE, HIDDEN, FFN, WIDTH = 896, 1152, 4304, 2560
MIB = 1 << 20


def checkpoint_of(layers: int) -> Checkpoint:
    """The eyes alone, in bfloat16, with every layer's tensors at the same place in memory."""
    rng = np.random.default_rng(0)
    vision: dict[str, Any] = {
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "image_size": TILE,
        "patch_size": 14,
    }
    metadata = {"text_config": {"hidden_size": WIDTH}, "vision_config": vision}
    tower, projector = "vision_tower.vision_model.", "multi_modal_projector."
    tensors = {
        f"{tower}embeddings.patch_embedding.weight": drawn(rng, HIDDEN, 3, 14, 14),
        f"{tower}embeddings.patch_embedding.bias": drawn(rng, HIDDEN),
        f"{tower}embeddings.position_embedding.weight": drawn(rng, (TILE // 14) ** 2, HIDDEN),
        f"{tower}post_layernorm.weight": drawn(rng, HIDDEN),
        f"{tower}post_layernorm.bias": drawn(rng, HIDDEN),
        f"{projector}mm_soft_emb_norm.weight": drawn(rng, HIDDEN),
        f"{projector}mm_input_projection_weight": drawn(rng, HIDDEN, WIDTH),
    }
    layer = {f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "out")}
    layer |= {"mlp.fc1": (FFN, HIDDEN), "mlp.fc2": (HIDDEN, FFN)}
    parts = {f"{name}.weight": drawn(rng, *shape) for name, shape in layer.items()}
    parts |= {f"{name}.bias": drawn(rng, shape[0]) for name, shape in layer.items()}
    for norm in ("layer_norm1", "layer_norm2"):
        parts |= {f"{norm}.weight": drawn(rng, HIDDEN), f"{norm}.bias": drawn(rng, HIDDEN)}
    for i in range(layers):
        tensors |= {f"{tower}encoder.layers.{i}.{name}": tensor for name, tensor in parts.items()}
    named = {name: replace(tensor, name=name) for name, tensor in tensors.items()}
    return Checkpoint("random eyes", "gemma3", metadata, named, format="huggingface")


def drawn(rng: np.random.Generator, *shape: int) -> Tensor:
    values = rng.standard_normal(shape).astype(np.float32) * np.float32(0.02)
    halves = (values.view(np.uint32) >> 16).astype(np.uint16)
    return Tensor("", "BF16", shape, halves.reshape(-1).view(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=27)
    parser.add_argument("--threads", type=int, default=cpu_budget().threads)
    parser.add_argument("--format", choices=["q8", "f32"], default="q8")
    args = parser.parse_args()
    plan, shaped = describe_vision(checkpoint_of(args.layers), TILE)
    need = vision_need(plan, shaped, args.format, args.threads).num_bytes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    begin = time.monotonic()
    vision = NativeVision(plan, shaped, threads=args.threads, weight_format=args.format)
    loaded_s = time.monotonic() - begin
    tile = np.random.default_rng(1).uniform(-1, 1, (TILE, TILE, 3)).astype(np.float32)
    seconds = []
    for _ in range(args.repeats):
        begin = time.monotonic()
        rows = vision.encode(tile)
        seconds.append(time.monotonic() - begin)
    assert rows.shape == (256, WIDTH)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    print(f"{args.layers} layers, {args.format}, {args.threads} threads: loaded in {loaded_s:.1f} s")
    print(f"a picture in {statistics.median(seconds):.1f} s ({min(seconds):.1f}–{max(seconds):.1f})")
    print(f"memory: {need / MIB:.0f} MiB by the plan, {grown / MIB:.0f} MiB grown at most")


if __name__ == "__main__":
    main()
