"""Where the tests find the real default model."""

from __future__ import annotations

import os
from pathlib import Path

from llm_serving.models import resolve_model


def real_model_path() -> Path:
    """The file LLM_SERVING_TEST_MODEL names, or the default model, fetched on first use."""
    path = os.environ.get("LLM_SERVING_TEST_MODEL")
    return Path(path) if path else resolve_model("smollm2-135m-instruct")
