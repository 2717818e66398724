"""Older families of decoders against `transformers`, as directories and as GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the parity suite needs torch; run it with: make parity")
pytest.importorskip("transformers", reason="the parity suite needs transformers; run it with: make parity")

import older_families
from family_models import assert_agree, our_logits, random_ids, save_model, their_logits
from gguf_twin import write_twin

from llm_serving.checkpoints import open_checkpoint

pytestmark = pytest.mark.parity


@pytest.mark.parametrize(("name", "more"), older_families.CASES)
def test_logits(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    config_class, model_class, shape = older_families.MODELS[name]
    config = config_class(**{"attn_implementation": "eager", **shape, **more})
    model = save_model(tmp_path, model_class, config)
    ids = random_ids()
    directory = open_checkpoint(tmp_path)
    theirs = their_logits(model, ids)
    assert_agree(our_logits(directory, ids), theirs)
    twin = older_families.TWINS.get(name)
    if twin is not None and not more.keys() & older_families.NOT_IN_GGUF:
        file = open_checkpoint(write_twin(tmp_path / "m.gguf", directory, twin))
        assert_agree(our_logits(file, ids), theirs)
