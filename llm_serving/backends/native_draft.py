"""The draft model of the native engine: its files, and whether its vocabulary is the chat model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, build_tokenizer, open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import CheckpointError, InvalidRequest
from llm_serving.native.ops import ModelPlan

SETTING = "draft_model"


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft model's files, opened; no weight of it is read."""

    checkpoint: Checkpoint
    plan: ModelPlan


def open_draft(options: EngineOptions) -> Draft | None:
    """The draft model that is to guess, if there is one.

    Raises: InvalidRequest for one that the native engine does not run.
    """
    if options.draft_model is None or options.speculation == "off":
        return None
    try:
        checkpoint = open_checkpoint(options.draft_model)
        return Draft(checkpoint, describe(checkpoint))
    except CheckpointError as error:
        raise InvalidRequest(f"The draft model cannot be used: {error}", SETTING) from error


def check_states(draft: Draft, plan: ModelPlan) -> None:
    """Raises: InvalidRequest where a guess that did not hold cannot be taken back."""
    if plan.state_floats or draft.plan.state_floats:
        which = "chat" if plan.state_floats else "draft"
        raise InvalidRequest(
            f"The {which} model has recurrent layers, which cannot take back what they have read. "
            "Choose one without, or no draft model.",
            SETTING,
        )


def check_vocabulary(draft: Draft, checkpoint: Checkpoint, token_bytes: Sequence[bytes]) -> None:
    """`token_bytes` is what the chat model's tokens add to a text; the draft model's must add the same.

    Tokens that add nothing, to either, are not compared: special ones, and what fills a vocabulary up.
    Raises: InvalidRequest, naming both models.
    """
    own_bytes = build_tokenizer(draft.checkpoint).token_bytes
    compared = [(own, other) for own, other in zip(own_bytes, token_bytes, strict=False) if own and other]
    if not compared or any(own != other for own, other in compared):
        raise InvalidRequest(
            f"'{Path(draft.checkpoint.path).name}' has another vocabulary than "
            f"'{Path(checkpoint.path).name}', so it cannot guess for it. "
            "Choose a smaller model of the same family, or none.",
            SETTING,
        )
