"""`python -m llm_serving.cli`, where the program is not on the path."""

from __future__ import annotations

from llm_serving.cli import main

main()
