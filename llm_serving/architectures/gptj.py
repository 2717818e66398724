"""GPT-J and CodeGen: one norm for both parts, rotary pairs (Wang & Komatsuzaki 2021, Nijkamp et al. 2023)."""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import config_json
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_shape import Names, Shape
from llm_serving.architectures.gpt2 import gpt2_names
from llm_serving.architectures.older_config import BIASED, in_usual_words, read_older
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import ModelPlan, Rope, Stripe

_KIND = replace(BIASED, qkv_bias=False, output_bias=False, parallel=True, interleaved=True, head_bias=True)
_SHARDS = 4  # that CodeGen was trained in: each has its queries, values and keys


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError when a size is missing, or not one that the engine runs."""
    names, usual, shape, kind = _read(checkpoint)
    return plan_of(usual, names, shape, kind)


def describe_codegen(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError when a size is missing, or heads are no shards."""
    names, usual, shape, kind = _read(checkpoint)
    if shape.heads % _SHARDS:
        raise CheckpointError(f"{shape.heads} heads of '{checkpoint.path}' are not {_SHARDS} equal parts.")
    size = shape.queries // _SHARDS
    query, value, key = (Stripe(i * size, size, 3 * size) for i in range(3))
    return plan_of(usual, names, shape, replace(kind, stripes=(query, key, value)))


def _read(checkpoint: Checkpoint) -> tuple[Names, Checkpoint, Shape, Kind]:
    usual = in_usual_words(checkpoint, tied=False)
    shape, kind = read_older(usual, _KIND, context=2048, activation="gelu_new")
    rotated = config_json.positive(usual, "rotary_dim", default=64)
    if rotated % 2 or rotated > shape.head_dim:
        raise CheckpointError(
            f"'rotary_dim' in the config.json of '{checkpoint.path}' is {rotated}; "
            f"an even number up to {shape.head_dim} is needed."
        )
    return _names(checkpoint), usual, replace(shape, rope=Rope(10000.0, rotated)), kind


def _names(checkpoint: Checkpoint) -> Names:
    names = gpt2_names(checkpoint)
    layer = names.input_norm.removesuffix("ln_1")
    return replace(
        names,
        query=f"{layer}attn.q_proj",
        key=f"{layer}attn.k_proj",
        value=f"{layer}attn.v_proj",
        qkv=f"{layer}attn.qkv_proj",
        output=f"{layer}attn.out_proj",
        up=f"{layer}mlp.fc_in",
        down=f"{layer}mlp.fc_out",
    )
