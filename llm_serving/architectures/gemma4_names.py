"""What files call the parts of a Gemma 4."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llm_serving.architectures import config_json
from llm_serving.architectures.experts import ExpertNames
from llm_serving.checkpoints import Checkpoint


@dataclass(frozen=True, slots=True)
class Names:
    """Whole tensor names; those of a layer contain `{i}`."""

    words: str
    inputs_table: str
    inputs_projection: str
    inputs_norm: str
    norm: str
    head: str
    input_norm: str
    query: str
    key: str
    value: str
    query_norm: str
    key_norm: str
    output: str
    attention_norm: str  # behind attention,
    ffn_norm: str  # before the feed-forward part,
    ffn_norm_behind: str  # and behind it
    gate: str
    up: str
    down: str
    layer_scale: str
    layer_gate: str  # of the layer's own input,
    layer_projection: str  # back to the row,
    layer_norm: str  # and behind that
    dense_norm: str  # behind the feed-forward part that stands beside experts
    router_scale: str
    experts_norm: str  # before the experts,
    experts_norm_behind: str  # and behind them
    experts: ExpertNames


_GGUF = Names(
    words="token_embd.weight",
    inputs_table="per_layer_token_embd.weight",
    inputs_projection="per_layer_model_proj.weight",
    inputs_norm="per_layer_proj_norm.weight",
    norm="output_norm.weight",
    head="output.weight",
    input_norm="blk.{i}.attn_norm.weight",
    query="blk.{i}.attn_q.weight",
    key="blk.{i}.attn_k.weight",
    value="blk.{i}.attn_v.weight",
    query_norm="blk.{i}.attn_q_norm.weight",
    key_norm="blk.{i}.attn_k_norm.weight",
    output="blk.{i}.attn_output.weight",
    attention_norm="blk.{i}.post_attention_norm.weight",
    ffn_norm="blk.{i}.ffn_norm.weight",
    ffn_norm_behind="blk.{i}.post_ffw_norm.weight",
    gate="blk.{i}.ffn_gate.weight",
    up="blk.{i}.ffn_up.weight",
    down="blk.{i}.ffn_down.weight",
    layer_scale="blk.{i}.layer_output_scale.weight",
    layer_gate="blk.{i}.inp_gate.weight",
    layer_projection="blk.{i}.proj.weight",
    layer_norm="blk.{i}.post_norm.weight",
    dense_norm="blk.{i}.post_ffw_norm_1.weight",
    router_scale="blk.{i}.ffn_gate_inp.scale",
    experts_norm="blk.{i}.pre_ffw_norm_2.weight",
    experts_norm_behind="blk.{i}.post_ffw_norm_2.weight",
    experts=ExpertNames(
        router="blk.{i}.ffn_gate_inp.weight",
        up="blk.{i}.ffn_gate_up_exps.weight",
        down="blk.{i}.ffn_down_exps.weight",
        fused=True,
        scales="blk.{i}.ffn_down_exps.scale",
    ),
)


_GGUF_APART = replace(  # as some files have experts
    _GGUF,
    experts=replace(
        _GGUF.experts,
        gate="blk.{i}.ffn_gate_exps.weight",
        up="blk.{i}.ffn_up_exps.weight",
        fused=False,
    ),
)


def read_names(checkpoint: Checkpoint) -> Names:
    """Raises: CheckpointError when a directory has no embedding."""
    if checkpoint.format == "gguf":
        return _GGUF_APART if "blk.0.ffn_gate_exps.weight" in checkpoint.tensors else _GGUF
    prefix = config_json.prefix_of(checkpoint, "embed_tokens.weight")
    layer = prefix + "layers.{i}."
    return Names(
        words=f"{prefix}embed_tokens.weight",
        inputs_table=f"{prefix}embed_tokens_per_layer.weight",
        inputs_projection=f"{prefix}per_layer_model_projection.weight",
        inputs_norm=f"{prefix}per_layer_projection_norm.weight",
        norm=f"{prefix}norm.weight",
        head="lm_head.weight",
        input_norm=f"{layer}input_layernorm.weight",
        query=f"{layer}self_attn.q_proj.weight",
        key=f"{layer}self_attn.k_proj.weight",
        value=f"{layer}self_attn.v_proj.weight",
        query_norm=f"{layer}self_attn.q_norm.weight",
        key_norm=f"{layer}self_attn.k_norm.weight",
        output=f"{layer}self_attn.o_proj.weight",
        attention_norm=f"{layer}post_attention_layernorm.weight",
        ffn_norm=f"{layer}pre_feedforward_layernorm.weight",
        ffn_norm_behind=f"{layer}post_feedforward_layernorm.weight",
        gate=f"{layer}mlp.gate_proj.weight",
        up=f"{layer}mlp.up_proj.weight",
        down=f"{layer}mlp.down_proj.weight",
        layer_scale=f"{layer}layer_scalar",
        layer_gate=f"{layer}per_layer_input_gate.weight",
        layer_projection=f"{layer}per_layer_projection.weight",
        layer_norm=f"{layer}post_per_layer_input_norm.weight",
        dense_norm=f"{layer}post_feedforward_layernorm_1.weight",
        router_scale=f"{layer}router.scale",
        experts_norm=f"{layer}pre_feedforward_layernorm_2.weight",
        experts_norm_behind=f"{layer}post_feedforward_layernorm_2.weight",
        experts=ExpertNames(
            router=f"{layer}router.proj.weight",
            up=f"{layer}experts.gate_up_proj",
            down=f"{layer}experts.down_proj",
            fused=True,
            scales=f"{layer}router.per_expert_scale",
        ),
    )
