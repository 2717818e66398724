"""What an engine that reads Hugging Face directories by itself gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_serving.checkpoints.directory_tokenizer import DirectoryTokenizer
from llm_serving.engine.protocol import Engine
from llm_serving.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class CausalLM:
    """Ready to answer. `details` are facts for lists of models."""

    engine: Engine
    tokenizer: DirectoryTokenizer
    chat_template: str | None
    details: dict[str, Any]


def require_safetensors(path: Path) -> None:
    """Raises: CheckpointError for all that is no directory of safetensors."""
    if not any(path.glob("*.safetensors")):
        raise CheckpointError(
            f"{path}: there are no safetensors. GGUF files are for the native engine, and pickled "
            "weights (.bin, .pt) are not loaded because they can run code."
        )
