"""How a model says that pictures are prepared for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_serving.checkpoints.checkpoint import Checkpoint
from llm_serving.checkpoints.json_files import read_object
from llm_serving.errors import CheckpointError

_LENGTHS = ("image_seq_len", "image_seq_length")  # as families call it


def read_image_processor(checkpoint: Checkpoint) -> tuple[dict[str, Any], str, int | None] | None:
    """(settings, the file they are in, tokens an image has if that is said); None without any.

    Projector files hold them as keys (`extras["image_processor"]`). Newer directories do as a part of
    `processor_config.json`, older ones apart from it.
    Raises: CheckpointError if a file is damaged.
    """
    if (settings := checkpoint.extras.get("image_processor")) is not None:
        return settings, checkpoint.path, None
    directory = Path(checkpoint.path)
    whole, own = directory / "processor_config.json", directory / "preprocessor_config.json"
    processor = read_object(whole) if whole.is_file() else {}
    length = next((processor[key] for key in _LENGTHS if processor.get(key) is not None), None)
    if length is not None and type(length) is not int:
        raise CheckpointError(f"{whole}: '{_LENGTHS[0]}' or '{_LENGTHS[1]}' is no number of tokens.")
    if isinstance(part := processor.get("image_processor"), dict):
        return part, str(whole), length
    return (read_object(own), str(own), length) if own.is_file() else None
