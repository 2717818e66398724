"""docs/compatibility.md names the families that the native engine runs, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from llm_serving.architectures import ENCODER_FAMILIES, FAMILIES

ROOT = Path(__file__).parents[2]


def test_every_family_is_listed() -> None:
    text = (ROOT / "docs" / "compatibility.md").read_text("utf-8")
    section = text.partition("\n## Model families\n")[2].partition("\n## ")[0]
    chat, _, encoders = section.partition("| encoders |")
    for part, families in ((chat, FAMILIES), (encoders, ENCODER_FAMILIES)):
        rows = "\n".join(line for line in part.splitlines() if line.startswith("|"))
        assert set(re.findall(r"`([^`]+)`", rows)) == families.keys()
