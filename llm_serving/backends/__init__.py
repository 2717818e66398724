"""The engines there are. A new one is one file and one line; nothing is imported until it is used."""

from __future__ import annotations

from importlib import import_module

from llm_serving.checkpoints import Checkpoint
from llm_serving.engine.protocol import Engine, EngineOptions
from llm_serving.errors import InvalidRequest

# Each module has `load(checkpoint, token_bytes, options) -> Engine`.
BACKENDS = {
    "native": "llm_serving.backends.native_backend",
}


def load_engine(
    name: str, checkpoint: Checkpoint, token_bytes: list[bytes], options: EngineOptions
) -> Engine:
    """Load a checkpoint into the engine called `name`; "auto" chooses. Blocking, and slow for large models.

    Raises: InvalidRequest for an unknown name; CheckpointError; ServingError when memory does not suffice.
    """
    module = BACKENDS.get("native" if name == "auto" else name)
    if module is None:
        raise InvalidRequest(f"There is no engine '{name}'; there are auto, {', '.join(BACKENDS)}.", "engine")
    engine: Engine = import_module(module).load(checkpoint, token_bytes, options)
    return engine
