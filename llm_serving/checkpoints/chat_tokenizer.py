"""A generating model's tokenizer, whatever the model is kept in."""

from __future__ import annotations

from pathlib import Path

from llm_serving.checkpoints.checkpoint import Checkpoint
from llm_serving.checkpoints.directory_files import read_directory_tokenizer
from llm_serving.checkpoints.tokenizer import Tokenizer, build_gguf_tokenizer


def build_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """Raises: CheckpointError, naming the file or key, if it is missing, damaged or of an unknown kind."""
    if checkpoint.format == "huggingface":
        return read_directory_tokenizer(Path(checkpoint.path))
    return build_gguf_tokenizer(checkpoint)
