"""Which classes a classifier tells apart, and what makes probabilities of its logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from llm_serving.checkpoints.checkpoint import Checkpoint
from llm_serving.errors import CheckpointError

ClassActivation = Literal["softmax", "sigmoid", "identity"]


@dataclass(frozen=True, slots=True)
class Classes:
    """Names of the classes, in the order of the logits. One is right (softmax), or any may be (sigmoid)."""

    labels: tuple[str, ...]
    activation: ClassActivation


def require_classifier(checkpoint: Checkpoint) -> None:
    """Raises: CheckpointError if the model ends in something else than classes."""
    if checkpoint.format == "gguf":
        is_classifier = "cls.output.weight" in checkpoint.tensors
    else:
        names = checkpoint.metadata.get("architectures") or [""]
        is_classifier = str(names[0]).endswith("ForSequenceClassification")
    if not is_classifier:
        raise CheckpointError(
            f"{checkpoint.path}: is no classifier. Its config.json must name an architecture that ends in "
            "ForSequenceClassification; a GGUF file needs 'cls.output.weight'."
        )


def read_classes(checkpoint: Checkpoint, num_classes: int) -> Classes:
    """Names as `id2label` has them, or LABEL_0 and so on; the activation as `problem_type` has it.

    Without a `problem_type`: sigmoid of one logit, softmax of several, as in the pipeline of `transformers`.
    GGUF files have names only. Raises: CheckpointError for other names than there are classes, and an unknown
    `problem_type`.
    """
    labels = _labels(checkpoint)
    if labels and len(labels) != num_classes:
        raise CheckpointError(f"{checkpoint.path}: names {len(labels)} labels for {num_classes} classes.")
    names = labels or tuple(f"LABEL_{i}" for i in range(num_classes))
    kind = checkpoint.metadata.get("problem_type") if checkpoint.format != "gguf" else None
    known: dict[Any, ClassActivation] = {
        None: "sigmoid" if num_classes == 1 else "softmax",
        "single_label_classification": "sigmoid" if num_classes == 1 else "softmax",
        "multi_label_classification": "sigmoid",
        "regression": "identity",
    }
    if not isinstance(kind, str | None) or kind not in known:
        raise CheckpointError(
            f"{checkpoint.path}: the problem_type {str(kind)[:80]!r} of config.json is not known."
        )
    return Classes(names, known[kind])


def _labels(checkpoint: Checkpoint) -> tuple[str, ...]:
    if checkpoint.format == "gguf":
        named: Any = checkpoint.hyper("classifier.output_labels", [])
        return tuple(map(str, named)) if isinstance(named, list) else ()
    table: Any = checkpoint.metadata.get("id2label")
    if not isinstance(table, dict):
        return ()
    try:
        numbered = {int(number): str(label) for number, label in table.items()}
        return tuple(numbered[number] for number in range(len(table)))
    except (KeyError, ValueError):
        raise CheckpointError(f"{checkpoint.path}: id2label of config.json does not count from 0.") from None
