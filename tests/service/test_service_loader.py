"""Loading a chat model."""

from __future__ import annotations

import pytest

from llm_serving.backends.constraints import Choice
from llm_serving.config import Settings
from llm_serving.service.loader import load_chat_model


@pytest.mark.anyio
async def test_what_forms_need_is_there_before_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making it stops every answer of the process."""
    model = load_chat_model(Settings(model_name="fake", engine="fake"))
    monkeypatch.setattr("llguidance.LLTokenizer", None)
    assert len(model.constraints.build(Choice(["a", "b"]), 2, "x")) == 2
    await model.close()
