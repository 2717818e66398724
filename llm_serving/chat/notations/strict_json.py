"""JSON as models may write it: strict, and with integers of any size."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

_LONG = re.compile(r"\d{19}")  # what 64 bits may not hold


def load_json(text: str) -> Any:
    """Raises: ValueError."""
    value = orjson.loads(text)
    return value if _LONG.search(text) is None else json.loads(text)
