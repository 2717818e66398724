"""Settings and requests in vLLM's words; none of this needs vLLM."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_serving.backends.constraints import Choice, Constraints, Grammar, JsonSchema, Regex
from llm_serving.backends.fake import FakeTokenizer
from llm_serving.backends.vllm_backend.arguments import (
    CPU_KV_BYTES,
    check_request,
    engine_arguments,
    form_arguments,
    memory_arguments,
    sampling_arguments,
    token_logprobs,
)
from llm_serving.chat.tools import JSON_STYLE
from llm_serving.engine.protocol import EngineOptions
from llm_serving.engine.reasoning import ReasoningConstraint
from llm_serving.engine.request import GenerateRequest, SamplingParams, TokenLogprobs
from llm_serving.errors import InvalidRequest, UnsupportedParameter

GIB = 1 << 30


def arguments(device: str = "auto", platform: str = "cuda", **options: Any) -> dict[str, Any]:
    settings = EngineOptions(**options)
    return engine_arguments(Path("/models/m"), settings, device, platform, takes_forms=True)


def test_settings_become_engine_arguments() -> None:
    found = arguments(quantization="bf16", max_concurrency=200)
    assert (found["model"], found["dtype"], found["max_num_seqs"]) == ("/models/m", "bfloat16", 200)
    assert (found["trust_remote_code"], found["load_format"]) == (False, "safetensors")
    assert "device_ids" not in found


@pytest.mark.parametrize(
    ("device", "platform", "device_ids"),
    [("auto", "cuda", None), ("auto", "cpu", None), ("cuda", "cuda", None), ("cuda:3", "cuda", [3])],
)
def test_devices(device: str, platform: str, device_ids: list[int] | None) -> None:
    found = arguments(device, platform)
    assert found.get("device_ids") == device_ids
    assert found["enforce_eager"] == (platform == "cpu")


@pytest.mark.parametrize(
    ("device", "platform"), [("cuda:0", "cpu"), ("cpu", "cuda"), ("mps", "cuda"), ("auto", "")]
)
def test_devices_this_vllm_was_not_built_for(device: str, platform: str) -> None:
    with pytest.raises(InvalidRequest, match=f"'{device}'") as caught:
        arguments(device, platform)
    assert caught.value.param == "device"


@pytest.mark.parametrize(
    "option", [{"quantization": "q4"}, {"quantization": "q8"}, {"kv_cache": "q8"}], ids=str
)
def test_settings_that_vllm_cannot_keep(option: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        arguments(**option)
    assert caught.value.param in option


def test_memory() -> None:
    assert memory_arguments(6 * GIB, 24 * GIB, "cuda", 0) == {"gpu_memory_utilization": 0.25}
    assert memory_arguments(0, 24 * GIB, "cuda", 0) == {}
    assert memory_arguments(0, 24 * GIB, "cpu", 2 * GIB) == {"kv_cache_memory_bytes": GIB}
    assert memory_arguments(0, 24 * GIB, "cpu", 100 * GIB) == {"kv_cache_memory_bytes": CPU_KV_BYTES}
    with pytest.raises(InvalidRequest) as caught:
        memory_arguments(25 * GIB, 24 * GIB, "cuda", 0)
    assert caught.value.param == "memory"


def test_requests_become_sampling_arguments() -> None:
    asked = SamplingParams(
        max_tokens=900,
        min_tokens=7,
        temperature=0.5,
        top_k=40,
        top_p=0.9,
        min_p=0.1,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        repetition_penalty=1.1,
        seed=2**64 - 1,
        stop=("ours",),
        logit_bias=((5, -1.0), (6, 2.0)),
        top_logprobs=0,
    )
    assert sampling_arguments(asked, 50, {9, 2}) == {
        "max_tokens": 50,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "repetition_penalty": 1.1,
        "seed": 2**63 - 1,
        "stop_token_ids": [2, 9],
        "ignore_eos": True,
        "min_tokens": 7,
        "logit_bias": {5: -1.0, 6: 2.0},
        "logprobs": 0,
        "detokenize": False,
    }
    plain = sampling_arguments(SamplingParams(max_tokens=5, temperature=0), 5, {2})
    assert (plain["seed"], plain["stop_token_ids"], plain["logit_bias"]) == (None, [2], None)
    assert plain["logprobs"] is None
    assert sampling_arguments(SamplingParams(max_tokens=9, top_p=0.0), 5, {2})["top_p"] > 0
    late = sampling_arguments(SamplingParams(max_tokens=9, min_tokens=8), 5, {2})
    assert late["min_tokens"] == 5  # the context has no room for more, and vLLM would refuse


def test_requests_that_vllm_has_no_word_for() -> None:
    fine = GenerateRequest("r", [1], SamplingParams(max_tokens=1))
    check_request(fine, takes_forms=False)
    with pytest.raises(UnsupportedParameter, match="typical_p"):
        check_request(replace(fine, sampling=SamplingParams(max_tokens=1, typical_p=0.5)), takes_forms=True)
    for asked, param in (
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1, "prompt_logprobs": 0}, "echo"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            check_request(replace(fine, sampling=SamplingParams(**asked)), takes_forms=True)
        assert caught.value.param == param
    constraint = ReasoningConstraint(
        None, 8, open_id=1, close_id=2, eos_ids=frozenset({3}), is_open=True, budget=1
    )
    with pytest.raises(UnsupportedParameter):
        check_request(replace(fine, constraint=constraint), takes_forms=True)
    tokenizer = FakeTokenizer()
    (form,) = Constraints(tokenizer, tokenizer.vocab_size).build(Choice(["a"]), 1, "choice")
    check_request(replace(fine, constraint=form), takes_forms=True)
    with pytest.raises(UnsupportedParameter):
        check_request(replace(fine, constraint=form), takes_forms=False)


def test_forms_in_vllms_words() -> None:
    assert form_arguments(Choice(("a", "b"))) == {"choice": ["a", "b"]}
    assert form_arguments(Regex("a\0[b]")) == {"regex": r"a\x00[b]"}
    assert form_arguments(Grammar("start: /a/")) == {"grammar": "start: /a/"}
    said = form_arguments(JsonSchema({"type": "integer"}))["json"]
    assert said == {"type": "integer", "x-guidance": JSON_STYLE}


@dataclass
class Found:
    """As `vllm.logprobs.Logprob`."""

    logprob: float
    rank: int


def test_log_probabilities_are_ordered_and_counted() -> None:
    found = {7: Found(-3.0, 9), 4: Found(-0.5, 1), 5: Found(-1.0, 2)}
    assert token_logprobs(found, 7, 2) == TokenLogprobs(-3.0, ((4, -0.5), (5, -1.0)))
    assert token_logprobs(found, 4, 1) == TokenLogprobs(-0.5, ((4, -0.5),))
    assert token_logprobs({7: Found(-np.inf, 9)}, 7, 0) == TokenLogprobs(-np.inf)
