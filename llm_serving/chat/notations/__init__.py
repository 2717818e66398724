"""Notations of calls, one a file; which of them a model knows, its template tells."""

from __future__ import annotations

from llm_serving.chat.notations.hermes import HERMES
from llm_serving.chat.notations.tags import TAGS

# The first whose signs are all in a template counts.
NOTATIONS = (TAGS, HERMES)
