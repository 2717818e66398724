"""Model families as data. A new family is one file and one line in this table."""

from __future__ import annotations

from llm_serving.architectures import (
    afmoe,
    bailing,
    bert,
    bitnet,
    cohere,
    decoder_experts,
    deepseek,
    exaone,
    exaone4,
    gemma1,
    gemma2,
    gemma3,
    gemma3_vision,
    gemma4,
    gemma4_vision,
    gemma_embedding,
    glm4,
    gpt_oss,
    granite,
    granite_hybrid,
    hunyuan,
    idefics3,
    internlm,
    jina_bert,
    layer_normed,
    lfm2,
    lfm2_moe,
    llama,
    llama_kin,
    mistral3,
    modernbert,
    nanbeige,
    nemotron_h,
    nomic_bert,
    olmo2,
    phi3,
    projector,
    qwen2,
    qwen2_5_vl,
    qwen2_vl,
    qwen3,
    qwen3_5,
    qwen3_5_moe,
    qwen3_embedding,
    qwen3_vl,
    shared_experts,
    side_by_side,
    smollm3,
    text_part,
)
from llm_serving.architectures.adapted_modules import adapted as adapted
from llm_serving.architectures.projector import projector_kind as projector_kind
from llm_serving.architectures.projector import with_projector as with_projector
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import EncoderPlan, ModelPlan
from llm_serving.native.vision_plan import AnySizePlan, VisionPlan

MOST_TIMES = 16  # queries, keys and values of many heads side by side, and more
MOST_CONTEXT = 1 << 24
MOST_HEAD = 576  # dimensions: kMostHeadDim of kv_format.hpp

FAMILIES = {
    "afmoe": afmoe.describe,
    "apertus": llama_kin.describe_apertus,
    "arcee": llama_kin.describe_arcee,
    "bailing_moe": bailing.describe,
    "bailing_moe_v2": bailing.describe,
    "bailingmoe2": bailing.describe,  # as GGUF files call it
    "baichuan": llama_kin.describe_baichuan,
    "bitnet": bitnet.describe,
    "cohere": cohere.describe,
    "cohere2": cohere.describe_2,
    "command-r": cohere.describe,  # as GGUF files call it
    "deepseek2": deepseek.describe_gguf,  # as GGUF files call all of them
    "deepseek_v2": deepseek.describe_v2,
    "deepseek_v3": deepseek.describe_v3,
    "ernie4_5": llama.describe_ernie,
    "ernie4_5-moe": shared_experts.describe_ernie,  # as GGUF files call it
    "ernie4_5_moe": shared_experts.describe_ernie,
    "exaone": exaone.describe,
    "exaone4": exaone4.describe,
    "gemma": gemma1.describe,
    "gemma2": gemma2.describe,
    "gemma3": gemma3.describe,
    "gemma3_text": gemma3.describe,  # as directories call it
    "gemma4": gemma4.describe,
    "gemma4_text": gemma4.describe,  # as directories call it,
    "gemma4_unified": gemma4.describe,  # with the text model of 12 B,
    "gemma4_unified_text": gemma4.describe,
    "glm4": glm4.describe,
    "glm4_moe": shared_experts.describe_glm4_moe,
    "glm4_moe_lite": deepseek.describe_v3,
    "glm4moe": shared_experts.describe_glm4_moe,  # as GGUF files call it
    "gpt-oss": gpt_oss.describe,  # as GGUF files call it
    "gpt_oss": gpt_oss.describe,
    "gpt_neox": side_by_side.describe_neox,
    "gptneox": side_by_side.describe_neox,  # as GGUF files call it
    "granite": granite.describe,
    "granitehybrid": granite_hybrid.describe,  # as GGUF files call it
    "granitemoe": granite.describe_moe,
    "granitemoehybrid": granite_hybrid.describe,
    "granitemoeshared": granite.describe_moe,
    "helium": llama_kin.describe_helium,
    "hunyuan-dense": hunyuan.describe,  # as GGUF files call it
    "hunyuan-moe": shared_experts.describe_hunyuan,
    "hunyuan_v1_dense": hunyuan.describe,
    "hunyuan_v1_moe": shared_experts.describe_hunyuan,
    "idefics3": idefics3.describe,
    "lfm2": lfm2.describe,
    "lfm2_moe": lfm2_moe.describe,
    "lfm2moe": lfm2_moe.describe,  # as GGUF files call it
    "internlm2": internlm.describe_2,
    "internlm3": internlm.describe_3,
    "llama": llama.describe,
    "maincoder": llama_kin.describe_maincoder,
    "mellum": decoder_experts.describe_mellum,
    "minicpm": granite.describe_minicpm,
    "ministral3": mistral3.describe,
    "mistral": llama.describe_mistral,
    "mistral3": text_part.describe_mistral3,
    "mixtral": decoder_experts.describe_mixtral,
    "nanbeige": nanbeige.describe,
    "nemotron": layer_normed.describe_nemotron,
    "nemotron_h": nemotron_h.describe,
    "nemotron_h_moe": nemotron_h.describe,  # as GGUF files call it
    "olmo": layer_normed.describe_olmo,
    "olmo2": olmo2.describe,
    "olmo3": olmo2.describe_olmo3,
    "olmoe": decoder_experts.describe_olmoe,
    "phi": side_by_side.describe_phi,
    "phi2": side_by_side.describe_phi,  # as GGUF files call it
    "phi3": phi3.describe,
    "qwen2": qwen2.describe,
    "qwen2_5_vl": qwen2_5_vl.describe,
    "qwen2_moe": shared_experts.describe_qwen2_moe,
    "qwen2_vl": qwen2_vl.describe,
    "qwen2moe": shared_experts.describe_qwen2_moe,  # as GGUF files call it
    "qwen2vl": qwen2_5_vl.describe,  # as GGUF files call both
    "qwen3": qwen3.describe,
    "qwen35": qwen3_5.describe,  # as GGUF files call it
    "qwen35moe": qwen3_5_moe.describe,
    "qwen3_5": qwen3_5.describe,
    "qwen3_5_moe": qwen3_5_moe.describe,
    "qwen3_5_moe_text": qwen3_5_moe.describe,
    "qwen3_5_text": qwen3_5.describe,
    "qwen3_moe": decoder_experts.describe_qwen3_moe,
    "qwen3_next": qwen3_5_moe.describe_next,
    "qwen3_vl": qwen3_vl.describe,
    "qwen3_vl_moe": qwen3_vl.describe,
    "qwen3moe": decoder_experts.describe_qwen3_moe,  # as GGUF files call it
    "qwen3next": qwen3_5_moe.describe_next,
    "qwen3vl": qwen3_vl.describe,
    "qwen3vlmoe": qwen3_vl.describe,
    "sarvam_moe": bailing.describe_sarvam,
    "seed_oss": llama_kin.describe_seed_oss,
    "smollm3": smollm3.describe,
    "smolvlm": idefics3.describe,
    "stablelm": layer_normed.describe_stablelm,
    "starcoder2": layer_normed.describe_starcoder2,
    "vaultgemma": gemma1.describe_vault,
}
VISION_FAMILIES = {
    "gemma3": gemma3_vision.describe_vision,
    "idefics3": idefics3.describe_vision,
    "smolvlm": idefics3.describe_vision,
}
ANY_SIZE_FAMILIES = {
    "gemma4": gemma4_vision.describe_vision,
    "qwen2_5_vl": qwen2_5_vl.describe_vision,
    "qwen2_vl": qwen2_vl.describe_vision,
    "qwen3_5": qwen3_vl.describe_vision,
    "qwen3_5_moe": qwen3_vl.describe_vision,
    "qwen3_vl": qwen3_vl.describe_vision,
    "qwen3_vl_moe": qwen3_vl.describe_vision,
}


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """The plan of a checkpoint. Raises: CheckpointError for a family the native engine does not run."""
    if checkpoint.architecture == projector.ARCHITECTURE:
        raise CheckpointError(
            f"'{checkpoint.path}' is a projector, what a model sees with. Serve the model that it belongs to."
        )
    family = FAMILIES.get(checkpoint.architecture)
    if family is None:
        raise CheckpointError(
            f"The native engine does not run the family '{checkpoint.architecture}' of '{checkpoint.path}'; "
            f"it runs {', '.join(sorted(FAMILIES))}."
        )
    _check_readable(checkpoint)
    plan = family(checkpoint)
    _check_sizes(checkpoint, {**plan.buffers, **plan.slots}, plan.max_context)
    largest = max(layer.head_dim for layer in plan.kv)
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
    plan, shaped = family(seeing, tile)
    _check_sizes(shaped, {**plan.tower.buffers, **plan.connector.buffers}, plan.tower.context)
    return plan, shaped


def describe_any_size(checkpoint: Checkpoint, rows: int) -> tuple[AnySizePlan, Checkpoint]:
    """As `describe_vision`, of `ANY_SIZE_FAMILIES`: what reads pictures that become up to so many rows."""
    seeing = checkpoint.projector or checkpoint
    plan, shaped = ANY_SIZE_FAMILIES[seeing.architecture](seeing, rows)
    for stage in (plan.tower, *plan.connectors):
        _check_sizes(shaped, stage.buffers, stage.context)
    return plan, shaped


ENCODER_FAMILIES = {
    "bert": bert.describe_bert,
    "roberta": bert.describe_roberta,
    "xlm-roberta": bert.describe_roberta,
    "camembert": bert.describe_roberta,
    "distilbert": bert.describe_distilbert,
    "mpnet": bert.describe_mpnet,
    "nomic_bert": nomic_bert.describe,
    "nomic-bert": nomic_bert.describe_gguf,
    "nomic-bert-moe": nomic_bert.describe_gguf,
    "jina-bert-v2": jina_bert.describe_gguf,
    "modernbert": modernbert.describe,
    "modern-bert": modernbert.describe_gguf,
    "gemma3_text": gemma_embedding.describe,
    "gemma-embedding": gemma_embedding.describe,  # as GGUF files call it
    "qwen3": qwen3_embedding.describe,
}


def describe_encoder(checkpoint: Checkpoint) -> EncoderPlan:
    """The plan of an embedding or reranking model. Raises: CheckpointError for a family that is not run."""
    family = ENCODER_FAMILIES.get(checkpoint.architecture)
    if family is None:
        raise CheckpointError(
            f"The native engine does not run the encoder family '{checkpoint.architecture}' of "
            f"'{checkpoint.path}'; it runs {', '.join(sorted(ENCODER_FAMILIES))}."
        )
    _check_readable(checkpoint)
    plan = family(checkpoint)
    _check_sizes(checkpoint, {**plan.buffers, **plan.slots}, plan.context)
    return plan


def _check_readable(checkpoint: Checkpoint) -> None:
    if problem := checkpoint.extras.get("unread_weights"):
        raise CheckpointError(f"{checkpoint.path}: {problem}")


def _check_sizes(checkpoint: Checkpoint, buffers: dict[str, int], context: int) -> None:
    """Memory is taken for what the header says before weights are looked at.

    Raises: CheckpointError for sizes that have nothing to do with the tensors, or a context of no model.
    """
    largest = max((size for tensor in checkpoint.tensors.values() for size in tensor.shape), default=0)
    for name, width in buffers.items():
        if width > MOST_TIMES * largest:
            raise CheckpointError(
                f"By its header '{checkpoint.path}' has {width} numbers a token in '{name}', and no tensor "
                f"has more than {largest} rows or columns: they are not of one model."
            )
    if context > MOST_CONTEXT:
        raise CheckpointError(
            f"By its header '{checkpoint.path}' has a context of {context} tokens; "
            f"up to {MOST_CONTEXT} are believed."
        )
