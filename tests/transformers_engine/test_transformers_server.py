"""The guide's example bodies on random models of those very architectures, through the whole server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch; run it with: make parity")

import httpx
import transformers
from fake_server import running_server
from openai import OpenAI
from tiny_directories import CHATML

from llm_serving.api.app import create_app
from llm_serving.config import Settings, SettingsError
from llm_serving.errors import CheckpointError, DownloadError, ModelNotFound
from llm_serving.service.loader import load_chat_model

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

BLOOM = {
    "model": "bigscience/bloomz-1b1",
    "messages": [{"content": "Translate to English: Je t’aime."}],
    "max_tokens": 512,
    "temperature": 0.1,
    "stream": False,
}
QWEN = {
    "model": "Qwen/Qwen2.5-3B-Instruct",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Hello! Talk about the News."},
    ],
    "max_tokens": 512,
    "temperature": 0.1,
    "stream": False,
}


def settings(directory: Path, **more: Any) -> Settings:
    how = {"engine": "transformers", "device": "cpu", "threads": 1, "embedding_model": "", **more}
    return Settings(model_name=str(directory), drain_s=0, **how)


@pytest.fixture(scope="module")
def bloom(directory_of: Callable[..., Path]) -> Iterator[str]:
    with running_server(create_app(settings(directory_of("bloom")))) as url:
        yield url


@pytest.fixture(scope="module")
def qwen(directory_of: Callable[..., Path]) -> Iterator[str]:
    directory = directory_of("qwen2", chat_template=CHATML)
    with running_server(create_app(settings(directory, system_prompt="Be brief."))) as url:
        yield url


def greedy(directory: Path, prompt: str, max_new_tokens: int) -> str:
    """What `generate()` says, up to the end of the answer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    out = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    ids = [i for i in out[0, inputs["input_ids"].shape[1] :].tolist() if i < len(tokenizer)]
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def test_bloom_without_roles(bloom: str, directory_of: Callable[..., Path]) -> None:
    """No chat template: the contents are the prompt."""
    answer = httpx.post(f"{bloom}/chat/completions", json=BLOOM, timeout=60).json()
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    plain = {**BLOOM, "temperature": 0, "max_tokens": 20}
    answer = httpx.post(f"{bloom}/chat/completions", json=plain, timeout=60).json()
    expected = greedy(directory_of("bloom"), "Translate to English: Je t’aime.", 20)
    assert answer["choices"][0]["message"]["content"] == expected
    assert answer["object"] == "chat.completion"


def test_bloom_on_the_native_engine(directory_of: Callable[..., Path], tmp_path: Path) -> None:
    """Which nobody has to ask for: the same answer."""
    directory = directory_of("bloom")
    how = {"engine": "auto", "device": "auto", "quantization": "f32", "cache_dir": tmp_path}
    with running_server(create_app(settings(directory, **how))) as url:
        (model,) = httpx.get(f"{url}/models").json()["data"]
        body = {**BLOOM, "temperature": 0, "max_tokens": 20}
        answer = httpx.post(f"{url}/chat/completions", json=body, timeout=60).json()
    assert model["engine"] == "native"
    expected = greedy(directory, "Translate to English: Je t’aime.", 20)
    assert answer["choices"][0]["message"]["content"] == expected


def test_qwen_with_roles(qwen: str, directory_of: Callable[..., Path]) -> None:
    assert httpx.post(f"{qwen}/chat/completions", json=QWEN, timeout=60).status_code == 200
    directory = directory_of("qwen2", chat_template=CHATML)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    prompt = tokenizer.apply_chat_template(QWEN["messages"], tokenize=False, add_generation_prompt=True)
    with OpenAI(api_key="OPENAI_API_KEY", base_url=f"{qwen}/", max_retries=0) as sdk:
        stream = sdk.chat.completions.create(
            model="gpt-4o", messages=QWEN["messages"], max_tokens=20, temperature=0, stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == greedy(directory, prompt, 20)


def test_seeds_stop_strings_and_choices(qwen: str) -> None:
    with OpenAI(api_key="-", base_url=f"{qwen}/v1", max_retries=0) as sdk:

        def ask(**how: Any) -> list[str]:
            body = {"model": "m", "messages": QWEN["messages"], "max_tokens": 20, "temperature": 1.0, **how}
            answer = sdk.chat.completions.create(**body)
            return [choice.message.content or "" for choice in answer.choices]

        (text,) = ask(seed=3)
        assert ask(seed=3) == [text]
        first, second, third = ask(seed=3, n=3)
        assert first == text
        assert len({first, second, third}) == 3
        stop = text[4:7]
        assert ask(seed=3, stop=[stop]) == [text[: text.index(stop)]]


def test_probabilities_and_biases(qwen: str) -> None:
    with OpenAI(api_key="-", base_url=f"{qwen}/v1", max_retries=0) as sdk:
        asked: Any = {"model": "m", "messages": QWEN["messages"], "max_tokens": 6, "temperature": 0}
        choice = sdk.chat.completions.create(**asked, logprobs=True, top_logprobs=2).choices[0]
        assert choice.logprobs is not None
        tokens = choice.logprobs.content or []
        assert len(tokens) == 6
        assert all(token.logprob == token.top_logprobs[0].logprob < 0 for token in tokens)
        forced = sdk.chat.completions.create(**asked, logit_bias={"70": 100}, logprobs=True).choices[0]
        assert forced.logprobs is not None
        assert len({token.token for token in forced.logprobs.content or []}) == 1


def test_status_and_models_say_where_it_runs_and_why(qwen: str) -> None:
    status = httpx.get(f"{qwen}/chat").json()
    assert (status["status"], status["device"]) == ("running", "cpu")
    assert status["system_prompt"] == "Be brief."
    (model,) = httpx.get(f"{qwen}/models").json()["data"]
    assert (model["engine"], model["architecture"]) == ("transformers", "Qwen2ForCausalLM")
    assert model["engine_reason"] == "--engine transformers was asked for"
    assert (model["dtype"], model["batching"], model["context_length"]) == ("float32", "continuous", 128)


def running(url: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("llm_serving_sequences_running"))


def test_leaving_a_stream_frees_its_place(qwen: str) -> None:
    body = {**QWEN, "stream": True, "max_tokens": 90, "ignore_eos": True}
    with httpx.stream("POST", f"{qwen}/chat/completions", json=body, timeout=60) as response:
        next(response.iter_lines())
    deadline_s = time.monotonic() + 10
    while running(qwen):
        assert time.monotonic() < deadline_s, "the sequence still runs"
        time.sleep(0.005)
    answer = httpx.post(f"{qwen}/chat/completions", json=QWEN, timeout=60)
    assert answer.status_code == 200


def test_auto_takes_what_the_native_engine_does_not_run(directory_of: Callable[..., Path]) -> None:
    import asyncio

    model = load_chat_model(settings(directory_of("xglm"), engine="auto", device="auto"))
    asyncio.run(model.engine.close())
    assert model.details["engine"] == "transformers"
    assert "native engine does not run" in model.details["engine_reason"]


def test_a_device_that_is_not_there_is_named(directory_of: Callable[..., Path]) -> None:
    with pytest.raises(SettingsError, match=r"--device \(LLM_SERVING_DEVICE\).*'cuda:1'.*there are: cpu"):
        load_chat_model(settings(directory_of("qwen2"), engine="auto", device="cuda:1"))
    with pytest.raises(SettingsError, match="--quantization.*bf16"):
        load_chat_model(settings(directory_of("qwen2"), quantization="q4"))


def test_hub_names_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DownloadError, match="models pull Qwen/Qwen2.5-3B-Instruct"):
        load_chat_model(settings(Path("Qwen/Qwen2.5-3B-Instruct")))
    with pytest.raises(ModelNotFound):
        load_chat_model(settings(Path("no-such-model")))


def test_gguf_files_are_not_for_this_engine(tmp_path: Path) -> None:
    from tiny_models import write_tiny_llama

    with pytest.raises(CheckpointError, match="native engine"):
        load_chat_model(settings(write_tiny_llama(tmp_path / "m.gguf")))
