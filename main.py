"""`uvicorn main:app --host 0.0.0.0 --port 8001`: settings come from LLM_SERVING_… variables."""

from __future__ import annotations

import sys

from llm_serving.api.app import create_app
from llm_serving.config import Settings
from llm_serving.errors import ServingError
from llm_serving.ops.log import configure_logging

try:
    _settings = Settings()
    configure_logging(_settings.log_level)
    app = create_app(_settings)
except ServingError as error:
    sys.exit(f"llm-serving: {error}")
