"""What makes a score of a cross-encoder's logit: the activation that sentence-transformers finds, too."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Literal

from llm_serving.checkpoints.checkpoint import Checkpoint
from llm_serving.checkpoints.sentence_transformers import SentenceTransformers
from llm_serving.errors import CheckpointError

ScoreActivation = Literal["sigmoid", "identity", "tanh"]

_KNOWN: dict[str, ScoreActivation] = {"Sigmoid": "sigmoid", "Identity": "identity", "Tanh": "tanh"}

logger = logging.getLogger(__name__)


def read_score_activation(checkpoint: Checkpoint) -> ScoreActivation:
    """The first of the names that is torch's own; sigmoid where there is none, as in every GGUF file.

    Any other class would run code that comes with the model, so sentence-transformers does not use it either.
    Raises: CheckpointError for a class of torch that is not known here.
    """
    for name in _names(checkpoint):
        if isinstance(name, str) and name.startswith("torch."):
            found = _KNOWN.get(name.rpartition(".")[2])
            if found is None:
                raise CheckpointError(
                    f"The cross-encoder '{checkpoint.path}' makes scores with {name[:80]!r}; "
                    f"{', '.join(_KNOWN)} are supported."
                )
            return found
        if name is not None:
            logger.warning("%s: the activation %.80r is not torch's and is left out", checkpoint.path, name)
    return "sigmoid"


def _names(checkpoint: Checkpoint) -> Iterator[Any]:
    """Of `config_sentence_transformers.json`, then of `config.json`: its present key, or the older one."""
    settings: SentenceTransformers | None = checkpoint.extras.get("sentence_transformers")
    if settings is not None:
        yield settings.activation
    own: Any = checkpoint.metadata.get("sentence_transformers")
    if isinstance(own, dict) and "activation_fn" in own:
        yield own["activation_fn"]
    else:
        yield checkpoint.metadata.get("sbert_ce_default_activation_function")
