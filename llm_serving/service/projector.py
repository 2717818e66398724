"""What a GGUF model sees with: the projector file that the settings name, or the one that lies beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llm_serving.architectures import projector_kind, with_projector
from llm_serving.backends.sight import check_sight
from llm_serving.checkpoints import Checkpoint, find_projector, open_checkpoint
from llm_serving.config import Settings, flag_name
from llm_serving.errors import CheckpointError, InvalidRequest


@dataclass(frozen=True, slots=True)
class Seeing:
    """A model's files with its eyes, or without: then `remedy` says what would help, where anything would."""

    checkpoint: Checkpoint
    remedy: str = ""
    is_unfit: bool = False  # a file lies there, and is not used

    @property
    def projector(self) -> Path | None:
        """The file that it sees with."""
        found = self.checkpoint.projector
        return Path(found.path) if found else None


def find_eyes(checkpoint: Checkpoint, settings: Settings) -> Seeing:
    """Of a model of the native engine. Reads no weights.

    A file that nobody named is not used if it does not fit; the remedy then tells its problem.
    Raises: InvalidRequest for the file that the settings name.
    """
    if not settings.max_images:
        return Seeing(checkpoint)
    if settings.mmproj is not None:
        try:
            return Seeing(_joined(checkpoint, settings.mmproj.expanduser()))
        except CheckpointError as error:
            raise InvalidRequest(f"The projector cannot be used: {error}", "mmproj") from error
    if projector_kind(checkpoint) is None:
        return Seeing(checkpoint)
    flag = flag_name("mmproj")
    try:
        path = find_projector(Path(checkpoint.path))
        if path is not None:
            return Seeing(_joined(checkpoint, path))
    except CheckpointError as error:
        return Seeing(checkpoint, f"Its projector is not used: {error} Name the right one with {flag}.", True)
    return Seeing(
        checkpoint,
        "Models of its family that were trained with images read them with their projector file "
        f"(mmproj-*.gguf), which lies beside the model or is named by {flag}.",
    )


def _joined(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    whole = with_projector(checkpoint, open_checkpoint(path))
    check_sight(whole)
    return whole
