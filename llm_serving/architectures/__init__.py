"""Model families as data. A new family is one file and one line in this table."""

from __future__ import annotations

from llm_serving.architectures import llama, qwen2
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import ModelPlan

FAMILIES = {
    "llama": llama.describe,
    "qwen2": qwen2.describe,
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
