"""Heads of ranking models in GGUF files: `cls` is a dense layer, `cls.norm` its norm, `cls.output` labels."""

from __future__ import annotations

from llm_serving.architectures import gguf_keys
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

LABELS = "cls.output"


def ranking_head(checkpoint: Checkpoint, head: ops.Head) -> ops.Head | None:
    """`head` if the file has the labels that it ends in.

    Raises: CheckpointError if it has these and not what comes before them.
    """
    if f"{LABELS}.weight" not in checkpoint.tensors:
        return None
    for name in (head.dense, head.norm):
        if name is not None and f"{name}.weight" not in checkpoint.tensors:
            raise CheckpointError(
                f"'{checkpoint.path}' has a classifier but not the pooler before it ('{name}'), which "
                "conversion to GGUF may leave out. Its scores would be others: serve the directory instead."
            )
    return head


def answer_head(checkpoint: Checkpoint) -> ops.Head | None:
    """Of a language model: one label, or its own rows for the answers yes and no, by the names of the labels.

    Raises: CheckpointError for other labels.
    """
    if f"{LABELS}.weight" not in checkpoint.tensors:
        return None
    if checkpoint.tensors[f"{LABELS}.weight"].shape[0] == 1:
        return ops.Head(LABELS)
    labels = checkpoint.hyper("classifier.output_labels", ["yes", "no"])
    if not isinstance(labels, list) or sorted(map(str, labels)) != ["no", "yes"]:
        raise gguf_keys.problem(checkpoint, "classifier.output_labels", labels, "supported: yes and no")
    return ops.Head(LABELS, rows=(labels.index("yes"), labels.index("no")))
