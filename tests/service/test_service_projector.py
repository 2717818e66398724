"""Projector files from the settings to the answers: which is used, what is told of it, what is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PIL", reason="needs the extra: pip install 'llm-serving[images]'")

from fake_server import open_client
from gguf_pairs import write_pair, write_projector, write_text
from pictures import png_url
from tiny_gemma import write_tiny_gemma
from tiny_models import write_tiny_llama
from tiny_vision import write_tiny_smolvlm

from llm_serving.backends import EngineChoice
from llm_serving.checkpoints import open_checkpoint
from llm_serving.cli.doctor_checks import Check, all_checks
from llm_serving.config import Settings, SettingsError
from llm_serving.service import loader
from llm_serving.service.facts import facts_of
from llm_serving.service.loader import fingerprint, load_chat_model, measure_chat_model
from llm_serving.service.measuring import read_profile
from llm_serving.service.projector import find_eyes
from llm_serving.service.registry import Registry

pytestmark = pytest.mark.anyio

SHOWN = {
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": png_url()}},
                {"type": "text", "text": "What is it?"},
            ],
        }
    ],
    "max_tokens": 4,
    "temperature": 0,
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    return write_tiny_smolvlm(folder)


def settings_of(model: Path, **more: Any) -> dict[str, Any]:
    return {
        "model_name": str(model),
        "embedding_model": "",
        "engine": "auto",
        "cache_dir": model.parent / "cache",
        "packed_cache": 0,
        "threads": 1,
        **more,
    }


async def test_a_file_beside_the_model_is_found(directory: Path, tmp_path: Path) -> None:
    text, projector = write_pair(tmp_path / "pair", directory)
    async with open_client(load_chat_model, **settings_of(text)) as client:
        [listed] = (await client.get("/models")).json()["data"]
        assert (listed["mmproj"], "vision" in listed["capabilities"]) == ("mmproj-model", True)
        answer = await client.post("/chat/completions", json=SHOWN)
        assert answer.status_code == 200, answer.text
        seen = answer.json()
    async with open_client(load_chat_model, **settings_of(text, max_images=0)) as client:
        answer = await client.post("/chat/completions", json=SHOWN)
        assert (answer.status_code, "mmproj" in answer.text) == (400, False)
    apart = projector.rename(tmp_path / "eyes.gguf")
    async with open_client(load_chat_model, **settings_of(text, mmproj=str(apart))) as client:
        assert (await client.get("/models")).json()["data"][0]["mmproj"] == "eyes"
        named = (await client.post("/chat/completions", json=SHOWN)).json()
    assert named["choices"][0]["message"] == seen["choices"][0]["message"]
    assert named["usage"] == seen["usage"]


async def test_without_one_a_400_tells_what_would_help(directory: Path, tmp_path: Path) -> None:
    text = write_text(tmp_path / "alone.gguf", directory)
    async with open_client(load_chat_model, **settings_of(text)) as client:
        answer = await client.post("/chat/completions", json=SHOWN)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "messages.0.content.0.image_url.url")
        assert "'alone' reads text only. Models of its family" in error["message"]
        assert "mmproj-*.gguf" in error["message"]
        assert "named by --mmproj" in error["message"]
    llama = write_tiny_llama(tmp_path / "llama.gguf")
    async with open_client(load_chat_model, **settings_of(llama)) as client:
        message = (await client.post("/chat/completions", json=SHOWN)).json()["error"]["message"]
        assert message.endswith("'llama' reads text only.")


async def test_a_file_of_another_model_is_not_used(
    directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gemma = write_tiny_gemma(tmp_path)
    (tmp_path / "pair").mkdir()
    text = write_text(tmp_path / "pair" / "text.gguf", directory)
    write_projector(tmp_path / "pair" / "mmproj-gemma.gguf", gemma)
    with caplog.at_level(logging.WARNING):
        async with open_client(load_chat_model, **settings_of(text)) as client:
            message = (await client.post("/chat/completions", json=SHOWN)).json()["error"]["message"]
    assert "Its projector is not used: 'mmproj-gemma.gguf' is a projector of the type 'gemma3'" in message
    assert str(tmp_path) not in message
    assert "text: reads text only. Its projector is not used" in caplog.text
    with pytest.raises(
        SettingsError, match=r"^--mmproj \(LLM_SERVING_MMPROJ\): .*'text.gguf' takes 'idefics3'"
    ):
        load_chat_model(Settings(**settings_of(text, mmproj=tmp_path / "pair" / "mmproj-gemma.gguf")))


async def test_several_files_are_named(directory: Path, tmp_path: Path) -> None:
    text, _ = write_pair(tmp_path / "pair", directory, projector="mmproj-a.gguf")
    write_projector(tmp_path / "pair" / "mmproj-b.gguf", directory)
    seeing = find_eyes(open_checkpoint(text), Settings(**settings_of(text)))
    assert seeing.is_unfit
    assert "holds 2 projector files (mmproj-a.gguf, mmproj-b.gguf)" in seeing.remedy
    assert seeing.remedy.endswith("Name the right one with --mmproj.")
    named = find_eyes(
        open_checkpoint(text), Settings(**settings_of(text, mmproj=tmp_path / "pair" / "mmproj-b.gguf"))
    )
    assert named.projector == tmp_path / "pair" / "mmproj-b.gguf"


@pytest.mark.parametrize("engine", ["transformers", "vllm", "fake"])
async def test_other_engines_take_none(engine: str) -> None:
    with pytest.raises(SettingsError, match=r"^--mmproj .*the .* engine takes none"):
        Settings(engine=engine, mmproj="mmproj.gguf")


async def test_an_engine_that_was_chosen_takes_none_either(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, projector = write_pair(tmp_path / "pair", directory)
    choice = EngineChoice("transformers", "the native engine does not run it")
    monkeypatch.setattr(loader, "choose_engine", lambda *_: choice)
    with pytest.raises(SettingsError, match=r"^--mmproj .*engine takes none.*Leave the projector out"):
        load_chat_model(Settings(**settings_of(text, mmproj=projector)))


async def test_a_file_that_is_not_there(directory: Path, tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.gguf", directory)
    with pytest.raises(SettingsError, match=r"^--mmproj .*nowhere.gguf: there is no such file"):
        load_chat_model(Settings(**settings_of(text, mmproj=tmp_path / "nowhere.gguf")))


async def test_what_is_told_before_it_is_loaded(directory: Path, tmp_path: Path) -> None:
    text, projector = write_pair(tmp_path / "pair", directory)
    settings = Settings(**settings_of(text))
    profile = read_profile(settings)
    assert profile is not None
    assert profile.sees
    seeing, blind = (
        measure_chat_model(settings),
        measure_chat_model(Settings(**settings_of(text, max_images=0))),
    )
    assert seeing is not None
    assert blind is not None
    assert seeing.weights > blind.weights
    facts = facts_of(find_eyes(open_checkpoint(text), settings).checkpoint)
    assert facts.num_bytes == text.stat().st_size + projector.stat().st_size
    assert fingerprint(text, settings, projector) != fingerprint(text, settings)


async def test_further_models_find_their_own(directory: Path, tmp_path: Path) -> None:
    text, projector = write_pair(tmp_path / "pair", directory)
    other = write_text(tmp_path / "other.gguf", directory)
    registry = Registry(Settings(**settings_of(text, mmproj=projector, further_models=str(other))))
    assert [registry._own[slot].mmproj for slot in registry.chatting()] == [projector, None]


async def test_the_doctor_tells(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, projector = write_pair(tmp_path / "pair", directory)

    def checks() -> list[Check]:
        return [check for check in all_checks(None) if check.name == "mmproj"]

    monkeypatch.setenv("LLM_SERVING_MODEL_NAME", str(text))
    [fine] = checks()
    assert (fine.status, str(projector) in fine.text) == ("ok", True)
    projector.write_bytes(projector.read_bytes()[:100])
    [unused] = checks()
    assert (unused.status, "Name the right one with --mmproj" in unused.remedy) == ("warning", True)
    monkeypatch.setenv("LLM_SERVING_MMPROJ", str(projector))
    [wrong] = checks()
    assert (wrong.status, "LLM_SERVING_MMPROJ" in wrong.remedy) == ("problem", True)
    projector.unlink()
    monkeypatch.delenv("LLM_SERVING_MMPROJ")
    assert checks() == []
