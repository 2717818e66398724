"""`--draft-model` from the settings to the answers: what is told of it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_models
from fake_server import open_client
from tiny_models import write_tiny_llama

from llm_serving.backends import EngineChoice
from llm_serving.config import Settings, SettingsError
from llm_serving.errors import ModelNotFound
from llm_serving.service import loader
from llm_serving.service.loader import engine_options, find_draft, load_chat_model, measure_chat_model
from llm_serving.service.registry import Registry

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    large = write_tiny_llama(tmp_path / "large.gguf", layers=3)
    small = write_tiny_llama(tmp_path / "small.gguf", layers=1)
    return {
        "model_name": str(large),
        "draft_model": str(small),
        "embedding_model": "",
        "engine": "auto",
        "cache_dir": tmp_path,
        "threads": 1,
    }


async def test_answers_are_the_same_and_lists_name_the_draft_model(settings: dict[str, Any]) -> None:
    texts = []
    for speculation in ("auto", "off"):
        async with open_client(load_chat_model, speculation=speculation, **settings) as client:
            listed = (await client.get("/models")).json()["data"]
            assert [model["id"] for model in listed] == ["large"]
            assert listed[0].get("draft_model") == ("small" if speculation == "auto" else None)
            body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 40, "temperature": 0.7}
            for seed in range(3):
                answer = await client.post(
                    "/chat/completions", json={**body, "seed": seed, "ignore_eos": True}
                )
                texts.append(answer.json()["choices"][0]["message"]["content"])
            assert "llm_serving_drafted_tokens_total" in (await client.get("/metrics")).text
    assert texts[:3] == texts[3:]


async def test_its_memory_is_planned(settings: dict[str, Any]) -> None:
    both = measure_chat_model(Settings(**settings))
    alone = measure_chat_model(Settings(**{**settings, "draft_model": ""}))
    assert both is not None
    assert alone is not None
    assert both.weights > alone.weights
    assert both.conversation_kv > alone.conversation_kv


@pytest.mark.parametrize("engine", ["transformers", "vllm", "fake"])
async def test_other_engines_take_none(engine: str, settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=f"the {engine} engine takes none; use the native") as caught:
        Settings(**{**settings, "engine": engine})
    assert str(caught.value).startswith("--draft-model (LLM_SERVING_DRAFT_MODEL): ")


async def test_an_engine_that_was_chosen_takes_none_either(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = EngineChoice("transformers", "the native engine does not run it")
    monkeypatch.setattr(loader, "choose_engine", lambda *_: choice)
    with pytest.raises(SettingsError, match="^--draft-model .*transformers engine takes none.*not run it"):
        load_chat_model(Settings(**settings))


async def test_another_vocabulary_is_an_error_of_the_setting(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_models, "MERGES", [*tiny_models.MERGES[1::-1], *tiny_models.MERGES[2:]])
    other = write_tiny_llama(tmp_path / "other.gguf")
    with pytest.raises(
        SettingsError, match=r"^--draft-model .*'other.gguf' has another vocabulary"
    ) as caught:
        load_chat_model(Settings(**{**settings, "draft_model": str(other)}))
    assert "'large.gguf'" in str(caught.value)
    assert "same family" in str(caught.value)


async def test_a_name_that_nothing_has(settings: dict[str, Any]) -> None:
    with pytest.raises(ModelNotFound):
        load_chat_model(Settings(**{**settings, "draft_model": "no-such-model"}))
    assert find_draft(Settings(**{**settings, "draft_model": "no-such-model", "speculation": "off"})) is None
    assert engine_options(Settings()).draft_model is None


async def test_further_models_have_none(settings: dict[str, Any], tmp_path: Path) -> None:
    further = write_tiny_llama(tmp_path / "further.gguf")
    registry = Registry(Settings(**settings, further_models=str(further)))
    of_each = [registry._own[slot].draft_model for slot in registry.chatting()]
    assert of_each == [settings["draft_model"], ""]
