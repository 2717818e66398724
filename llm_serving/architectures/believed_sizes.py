"""What a header may say of a model's sizes, before weights are looked at."""

from __future__ import annotations

from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError

MOST_TIMES = 16  # queries, keys and values of many heads side by side, and more
MOST_CONTEXT = 1 << 24


def check_sizes(checkpoint: Checkpoint, buffers: dict[str, int], context: int) -> None:
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
