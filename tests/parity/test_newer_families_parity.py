"""Newer families of decoders against `transformers`, as directories and as GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the parity suite needs torch; run it with: make parity")
pytest.importorskip("transformers", reason="the parity suite needs transformers; run it with: make parity")

import mixture_twins
import newer_families
import newer_twins
from family_models import assert_agree, our_logits, random_ids, their_logits
from gguf_twin import write_twin

from llm_serving.checkpoints import open_checkpoint

pytestmark = pytest.mark.parity

TWINS = {**newer_twins.TWINS, **mixture_twins.TWINS}


@pytest.mark.parametrize(("name", "more"), newer_families.CASES)
def test_logits(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    model = newer_families.saved(tmp_path, name, **more)
    ids = random_ids()
    directory = open_checkpoint(tmp_path)
    theirs = their_logits(model, ids)
    assert_agree(our_logits(directory, ids), theirs)
    twin = TWINS.get(name)
    if twin is not None and not more.keys() & newer_twins.NOT_IN_GGUF:
        file = open_checkpoint(write_twin(tmp_path / "m.gguf", directory, twin))
        assert_agree(our_logits(file, ids), theirs)
