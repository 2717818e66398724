"""Families with recurrent layers against `transformers`, as directories and as GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the parity suite needs torch; run it with: make parity")
pytest.importorskip("transformers", reason="the parity suite needs transformers; run it with: make parity")

import hybrid_families
import state_families
from family_models import assert_agree, our_logits, random_ids, their_logits
from gguf_twin import write_twin

from llm_serving.checkpoints import open_checkpoint

pytestmark = pytest.mark.parity
CASES = [(families, *case) for families in (hybrid_families, state_families) for case in families.CASES]


@pytest.mark.parametrize(("families", "name", "more"), CASES, ids=str)
def test_logits(families: Any, name: str, more: dict[str, Any], tmp_path: Path) -> None:
    model = families.saved(tmp_path, name, **more)
    ids = random_ids()
    directory = open_checkpoint(tmp_path)
    theirs = their_logits(model, ids)
    assert_agree(our_logits(directory, ids), theirs)
    if not more.keys() & families.NOT_IN_GGUF:
        file = open_checkpoint(write_twin(tmp_path / "m.gguf", directory, families.TWINS[name]))
        assert_agree(our_logits(file, ids), theirs)
