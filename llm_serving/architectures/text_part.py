"""Text models of directories that see as well: Mistral 3's, Qwen's. What sees is not read here.

Positions in three dimensions (Wang et al. 2024) are one number three times for text, which is plain rotation.
"""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import llama, mistral3, qwen2, qwen3
from llm_serving.architectures.config_json import part
from llm_serving.architectures.decoder_shape import head_of
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import ModelPlan

_TEXTS = {
    "llama": llama.describe,
    "ministral3": mistral3.describe,
    "mistral": llama.describe_mistral,
    "qwen2": qwen2.describe,
    "qwen2_5_vl": qwen2.describe,  # files of before texts had a part of their own
    "qwen2_5_vl_text": qwen2.describe,
    "qwen2_vl": qwen2.describe,
    "qwen2_vl_text": qwen2.describe,
    "qwen3": qwen3.describe,
}


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for a text model that is not run, or what its family refuses."""
    text = text_part(checkpoint)
    family = _TEXTS.get(text.architecture)
    if family is None:
        raise CheckpointError(
            f"The text model of '{checkpoint.path}' is a '{text.architecture}'; "
            f"the engine runs {', '.join(sorted(_TEXTS))} there."
        )
    return family(text)


def describe_mistral3(checkpoint: Checkpoint) -> ModelPlan:
    """The text part of a directory, or a GGUF file, which is nothing else. Raises: as `describe`."""
    return mistral3.describe(checkpoint) if checkpoint.format == "gguf" else describe(checkpoint)


def text_part(checkpoint: Checkpoint) -> Checkpoint:
    """The same with the text model's settings as its own. Raises: CheckpointError for settings of no kind."""
    own = checkpoint.metadata
    text = part(checkpoint, "text_config") if "text_config" in own else own
    architecture = str(text.get("model_type", checkpoint.architecture))
    metadata = {**text, "tie_word_embeddings": not head_of(checkpoint)}
    return replace(checkpoint, architecture=architecture, metadata=metadata)
