"""Model families as data. A new family is one file and one line in this table."""

from __future__ import annotations

from llm_serving.architectures import (
    bert,
    jina_bert,
    llama,
    modernbert,
    nomic_bert,
    qwen2,
    qwen3,
    qwen3_embedding,
)
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import EncoderPlan, ModelPlan

FAMILIES = {
    "llama": llama.describe,
    "mistral": llama.describe_mistral,
    "qwen2": qwen2.describe,
    "qwen3": qwen3.describe,
}


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """The plan of a checkpoint. Raises: CheckpointError for a family the native engine does not run."""
    family = FAMILIES.get(checkpoint.architecture)
    if family is None:
        raise CheckpointError(
            f"The native engine does not run the family '{checkpoint.architecture}' of '{checkpoint.path}'; "
            f"it runs {', '.join(sorted(FAMILIES))}."
        )
    return family(checkpoint)


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
    return family(checkpoint)
