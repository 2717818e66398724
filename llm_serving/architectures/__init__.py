"""Model families as data. A new family is one file and one line in this table.

A family's file is imported when a model of it is opened: a server runs one or two of seventy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from llm_serving.architectures.adapted_modules import adapted as adapted
from llm_serving.architectures.believed_sizes import check_sizes
from llm_serving.architectures.encoder_families import ENCODER_FAMILIES as ENCODER_FAMILIES
from llm_serving.architectures.older import OLDER
from llm_serving.architectures.projector import ARCHITECTURE as PROJECTOR
from llm_serving.architectures.projector import projector_kind as projector_kind
from llm_serving.architectures.projector import with_projector as with_projector
from llm_serving.architectures.seeing_families import ANY_SIZE_FAMILIES as ANY_SIZE_FAMILIES
from llm_serving.architectures.seeing_families import VISION_FAMILIES
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import EncoderPlan, ModelPlan
from llm_serving.native.vision_plan import AnySizePlan, VisionPlan

MOST_HEAD = 576  # dimensions: kMostHeadDim of kv_format.hpp

FAMILIES = {  # a family's name → the file here and the function in it that describes its models
    "afmoe": "afmoe:describe",
    "apertus": "llama_kin:describe_apertus",
    "arcee": "llama_kin:describe_arcee",
    "bailing_moe": "bailing:describe",
    "bailing_moe_v2": "bailing:describe",
    "bailingmoe": "deepseek_moe:describe",  # as GGUF files call Ling 1,
    "bailingmoe2": "bailing:describe",  # and Ling 2.0
    "baichuan": "llama_kin:describe_baichuan",
    "bitnet": "bitnet:describe",
    "cohere": "cohere:describe",
    "cohere2": "cohere:describe_2",
    "cohere2_moe": "cohere_moe:describe",
    "cohere2moe": "cohere_moe:describe",  # as GGUF files call it
    "command-r": "cohere:describe",  # as GGUF files call it
    "deepseek": "deepseek_moe:describe",
    "deepseek2": "deepseek:describe_gguf",  # as GGUF files call all of them
    "deepseek_v2": "deepseek:describe_v2",
    "deepseek_v3": "deepseek:describe_v3",
    "dots1": "sigmoid_experts:describe_dots",
    "ernie4_5": "llama:describe_ernie",
    "ernie4_5-moe": "shared_experts:describe_ernie",  # as GGUF files call it
    "ernie4_5_moe": "shared_experts:describe_ernie",
    "exaone": "exaone:describe",
    "exaone4": "exaone4:describe",
    "falcon-h1": "falcon_h1:describe",  # as GGUF files call it
    "falcon_h1": "falcon_h1:describe",
    "falcon_mamba": "mamba:describe",
    "exaone-moe": "exaone4:describe_moe",  # as GGUF files call it
    "exaone_moe": "exaone4:describe_moe",
    "gemma": "gemma1:describe",
    "gemma2": "gemma2:describe",
    "gemma3": "gemma3:describe",
    "gemma3_text": "gemma3:describe",  # as directories call it
    "gemma3n": "gemma3n:describe",
    "gemma3n_text": "gemma3n:describe",  # as directories call it
    "gemma4": "gemma4:describe",
    "gemma4_text": "gemma4:describe",  # as directories call it,
    "gemma4_unified": "gemma4:describe",  # with the text model of 12 B,
    "gemma4_unified_text": "gemma4:describe",
    "glm4": "glm4:describe",
    "glm4_moe": "shared_experts:describe_glm4_moe",
    "glm4_moe_lite": "deepseek:describe_v3",
    "glm4moe": "shared_experts:describe_glm4_moe",  # as GGUF files call it
    "gpt-oss": "gpt_oss:describe",  # as GGUF files call it
    "gpt_oss": "gpt_oss:describe",
    "gpt_neox": "side_by_side:describe_neox",
    "gptneox": "side_by_side:describe_neox",  # as GGUF files call it
    "granite": "granite:describe",
    "granitehybrid": "granite_hybrid:describe",  # as GGUF files call it
    "granitemoe": "granite:describe_moe",
    "granitemoehybrid": "granite_hybrid:describe",
    "granitemoeshared": "granite:describe_moe",
    "helium": "llama_kin:describe_helium",
    "hunyuan-dense": "hunyuan:describe",  # as GGUF files call it
    "hunyuan-moe": "shared_experts:describe_hunyuan",
    "hunyuan_v1_dense": "hunyuan:describe",
    "hunyuan_v1_moe": "shared_experts:describe_hunyuan",
    "idefics3": "idefics3:describe",
    "lfm2": "lfm2:describe",
    "lfm2_moe": "lfm2_moe:describe",
    "lfm2moe": "lfm2_moe:describe",  # as GGUF files call it
    "internlm2": "internlm:describe_2",
    "internlm3": "internlm:describe_3",
    "jamba": "jamba:describe",
    "llama": "llama:describe",
    "llama4": "llama4:describe",
    "llama4_text": "llama4:describe",  # as directories call it
    "maincoder": "llama_kin:describe_maincoder",
    "mamba": "mamba:describe",
    "mamba2": "mamba:describe_2",
    "mellum": "decoder_experts:describe_mellum",
    "minicpm": "granite:describe_minicpm",
    "minicpm3": "minicpm3:describe",
    "minimax-m2": "sigmoid_experts:describe_minimax",  # as GGUF files call it
    "minimax_m2": "sigmoid_experts:describe_minimax",
    "ministral3": "mistral3:describe",
    "mistral": "llama:describe_mistral",
    "mistral3": "text_part:describe_mistral3",
    "mixtral": "decoder_experts:describe_mixtral",
    "nanbeige": "nanbeige:describe",
    "nemotron": "layer_normed:describe_nemotron",
    "nemotron_h": "nemotron_h:describe",
    "nemotron_h_moe": "nemotron_h:describe",  # as GGUF files call it
    "olmo": "layer_normed:describe_olmo",
    "olmo2": "olmo2:describe",
    "olmo3": "olmo2:describe_olmo3",
    "olmoe": "decoder_experts:describe_olmoe",
    "phi": "side_by_side:describe_phi",
    "phi2": "side_by_side:describe_phi",  # as GGUF files call it
    "phi3": "phi3:describe",
    "phimoe": "phimoe:describe",
    "qwen2": "qwen2:describe",
    "qwen2_5_vl": "qwen2_5_vl:describe",
    "qwen2_moe": "shared_experts:describe_qwen2_moe",
    "qwen2_vl": "qwen2_vl:describe",
    "qwen2moe": "shared_experts:describe_qwen2_moe",  # as GGUF files call it
    "qwen2vl": "qwen2_5_vl:describe",  # as GGUF files call both
    "qwen3": "qwen3:describe",
    "qwen35": "qwen3_5:describe",  # as GGUF files call it
    "qwen35moe": "qwen3_5_moe:describe",
    "qwen3_5": "qwen3_5:describe",
    "qwen3_5_moe": "qwen3_5_moe:describe",
    "qwen3_5_moe_text": "qwen3_5_moe:describe",
    "qwen3_5_text": "qwen3_5:describe",
    "qwen3_moe": "decoder_experts:describe_qwen3_moe",
    "qwen3_next": "qwen3_5_moe:describe_next",
    "qwen3_vl": "qwen3_vl:describe",
    "qwen3_vl_moe": "qwen3_vl:describe",
    "qwen3moe": "decoder_experts:describe_qwen3_moe",  # as GGUF files call it
    "qwen3next": "qwen3_5_moe:describe_next",
    "qwen3vl": "qwen3_vl:describe",
    "qwen3vlmoe": "qwen3_vl:describe",
    "sarvam_moe": "bailing:describe_sarvam",
    "seed_oss": "llama_kin:describe_seed_oss",
    "smallthinker": "smallthinker:describe",
    "smollm3": "smollm3:describe",
    "smolvlm": "idefics3:describe",
    "stablelm": "layer_normed:describe_stablelm",
    "starcoder2": "layer_normed:describe_starcoder2",
    "vaultgemma": "gemma1:describe_vault",
    **OLDER,
}


def describer(place: str) -> Callable[..., Any]:
    """The function that an entry of a table of families names."""
    module, _, name = place.partition(":")
    function: Callable[..., Any] = getattr(import_module(f"{__name__}.{module}"), name)
    return function


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """The plan of a checkpoint. Raises: CheckpointError for a family the native engine does not run."""
    if checkpoint.architecture == PROJECTOR:
        raise CheckpointError(
            f"'{checkpoint.path}' is a projector, what a model sees with. Serve the model that it belongs to."
        )
    family = FAMILIES.get(checkpoint.architecture)
    if family is None:
        raise CheckpointError(
            f"The native engine does not run the family '{checkpoint.architecture}' of '{checkpoint.path}'; "
            f"it runs {_others(checkpoint.architecture, FAMILIES)}."
        )
    _check_readable(checkpoint)
    plan: ModelPlan = describer(family)(checkpoint)
    check_sizes(checkpoint, {**plan.buffers, **plan.slots}, plan.max_context)
    largest = max((layer.head_dim for layer in plan.kv), default=0)
    if largest > MOST_HEAD:
        raise CheckpointError(
            f"Attention heads of '{checkpoint.path}' have {largest} dimensions; "
            f"the native engine keeps keys and values of up to {MOST_HEAD}."
        )
    return plan


def sees(checkpoint: Checkpoint) -> bool:
    """Whether `describe_vision` or `describe_any_size` is for this model.

    Text models may go by the same family's name.
    """
    if checkpoint.projector is not None:
        return True
    has_eyes = checkpoint.metadata.get("vision_config") is not None
    is_known = checkpoint.architecture in {*VISION_FAMILIES, *ANY_SIZE_FAMILIES}
    return is_known and checkpoint.format == "huggingface" and has_eyes


def describe_vision(checkpoint: Checkpoint, tile: int) -> tuple[VisionPlan, Checkpoint]:
    """What reads pictures in tiles of so many pixels a side, and the tensors as it needs them.

    Raises: CheckpointError for a family that does not see, or sizes that do not fit.
    """
    seeing = checkpoint.projector or checkpoint
    family = VISION_FAMILIES.get(seeing.architecture)
    if family is None:
        raise CheckpointError(f"The native engine reads no images with '{checkpoint.architecture}'.")
    plan: VisionPlan
    plan, shaped = describer(family)(seeing, tile)
    check_sizes(shaped, {**plan.tower.buffers, **plan.connector.buffers}, plan.tower.context)
    return plan, shaped


def describe_any_size(checkpoint: Checkpoint, rows: int) -> tuple[AnySizePlan, Checkpoint]:
    """As `describe_vision`, of `ANY_SIZE_FAMILIES`: what reads pictures that become up to so many rows."""
    seeing = checkpoint.projector or checkpoint
    plan: AnySizePlan
    plan, shaped = describer(ANY_SIZE_FAMILIES[seeing.architecture])(seeing, rows)
    for stage in (plan.tower, *plan.connectors):
        check_sizes(shaped, stage.buffers, stage.context)
    return plan, shaped


def describe_encoder(checkpoint: Checkpoint) -> EncoderPlan:
    """The plan of an embedding or reranking model. Raises: CheckpointError for a family that is not run."""
    family = ENCODER_FAMILIES.get(checkpoint.architecture)
    if family is None:
        raise CheckpointError(
            f"The native engine does not run the encoder family '{checkpoint.architecture}' of "
            f"'{checkpoint.path}'; it runs {_others(checkpoint.architecture, ENCODER_FAMILIES)}."
        )
    _check_readable(checkpoint)
    plan: EncoderPlan = describer(family)(checkpoint)
    check_sizes(checkpoint, {**plan.buffers, **plan.slots}, plan.context)
    return plan


def _others(family: str, known: Mapping[str, str]) -> str:
    """Those that are named most alike, of families too many to be listed."""
    alike = get_close_matches(family, sorted(known))
    return f"{len(known)} others" + (f", such as {', '.join(alike)}" if alike else "")


def _check_readable(checkpoint: Checkpoint) -> None:
    if problem := checkpoint.extras.get("unread_weights"):
        raise CheckpointError(f"{checkpoint.path}: {problem}")
