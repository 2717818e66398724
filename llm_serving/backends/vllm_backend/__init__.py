"""Models on GPUs by vLLM's own engine, behind the seams of ours.

Scheduling, keys and values, and choosing tokens are vLLM's, in processes of its own; text, stop strings, ends
and streams are ours. Importing this package costs nothing: its modules load vLLM when they are used.
"""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from pathlib import Path

from llm_serving.backends.causal_lm import CausalLM
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import MissingExtra

EXTRA = "vllm"

# What vLLM reads when it is imported or starts its processes; what the user has set stays.
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # nothing is told to anybody
    "VLLM_CONFIGURE_LOGGING": "0",  # its lines go where ours go
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # this process has threads: it must not fork
}


def require() -> None:
    """Raises: MissingExtra, with the command that installs what is missing."""
    if find_spec("vllm") is None:
        raise MissingExtra("vllm", EXTRA)


def load_causal_lm(directory: Path, options: EngineOptions, device: str = "auto") -> CausalLM:
    """See `loading.load_causal_lm`."""
    require()
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("vllm").setLevel(logging.WARNING)
    from llm_serving.backends.vllm_backend import loading

    return loading.load_causal_lm(directory, options, device)
