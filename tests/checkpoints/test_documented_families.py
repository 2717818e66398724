"""docs/compatibility.md names the families that the native engine runs, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llm_serving.architectures import ENCODER_FAMILIES, FAMILIES, describer
from llm_serving.architectures.seeing_families import ANY_SIZE_FAMILIES, VISION_FAMILIES

ROOT = Path(__file__).parents[2]


def test_every_family_is_listed() -> None:
    text = (ROOT / "docs" / "compatibility.md").read_text("utf-8")
    section = text.partition("\n## Model families\n")[2].partition("\n## ")[0]
    chat, _, encoders = section.partition("| encoders |")
    for part, families in ((chat, FAMILIES), (encoders, ENCODER_FAMILIES)):
        rows = "\n".join(line for line in part.splitlines() if line.startswith("|"))
        assert set(re.findall(r"`([^`]+)`", rows)) == families.keys()


@pytest.mark.parametrize("families", [FAMILIES, ENCODER_FAMILIES, VISION_FAMILIES, ANY_SIZE_FAMILIES])
def test_every_family_has_its_function(families: dict[str, str]) -> None:
    for place in families.values():
        assert describer(place).__name__ == place.partition(":")[2]
