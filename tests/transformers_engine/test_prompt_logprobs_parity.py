"""Log-probabilities of prompts against transformers' own logits, on both engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch; run it with: make parity")

import transformers  # noqa: E402
from tiny_directories import VOCAB_SIZE  # noqa: E402

from llm_serving.backends import native_backend  # noqa: E402
from llm_serving.checkpoints import build_tokenizer, open_checkpoint  # noqa: E402
from llm_serving.engine.protocol import Engine, EngineOptions  # noqa: E402
from llm_serving.engine.request import GenerateRequest, SamplingParams, TokenEvent  # noqa: E402
from llm_serving.errors import InvalidRequest  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

PROMPTS = [[(7 * i + j * j) % VOCAB_SIZE for j in range(n)] for i, n in enumerate([3, 90, 5, 110, 1, 65])]


def request(name: str, prompt: list[int], count: int | None) -> GenerateRequest:
    params = SamplingParams(max_tokens=4, temperature=0.0, prompt_logprobs=count, top_logprobs=count)
    return GenerateRequest(name, prompt, params)


async def ask(engine: Engine, a_request: GenerateRequest) -> list[TokenEvent]:
    async with await engine.submit(a_request) as stream:
        return [event async for event in stream]


def ask_all(engine: Engine, count: int | None) -> list[list[TokenEvent]]:
    """All prompts at once, and each once more without log-probabilities."""

    async def run() -> list[list[TokenEvent]]:
        requests = [request(f"r{i}", prompt, count) for i, prompt in enumerate(PROMPTS)]
        plain = [request(f"p{i}", prompt, None) for i, prompt in enumerate(PROMPTS)]
        results = await asyncio.gather(*(ask(engine, each) for each in requests + plain))
        return list(results)

    return asyncio.run(run())


def compare(directory: Path, results: list[list[TokenEvent]], tolerance: float) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    for prompt, events, plain in zip(PROMPTS, results, results[len(PROMPTS) :], strict=False):
        with torch.inference_mode():
            expected = torch.log_softmax(model(torch.tensor([prompt])).logits[0].double(), -1)
        told = events[0].prompt_logprobs
        assert told is not None
        assert len(told) == len(prompt) - 1
        for position, each in enumerate(told):
            row = expected[position]
            assert each.chosen == pytest.approx(float(row[prompt[position + 1]]), abs=tolerance)
            best = torch.topk(row, 3).values.tolist()
            assert [value for _, value in each.top] == pytest.approx(best, abs=tolerance)
            assert [value for i, value in each.top] == pytest.approx(
                [float(row[i]) for i, _ in each.top], abs=tolerance
            )
        assert plain[0].prompt_logprobs is None
        assert [event.token_ids for event in plain] == [event.token_ids for event in events]


@pytest.mark.parametrize("family", ["qwen2", "bloom"])
def test_the_transformers_engine(load, directory_of: Callable[..., Path], family: str) -> None:
    compare(directory_of(family), ask_all(load(family).engine, 3), 1e-4)


def test_the_native_engine(directory_of: Callable[..., Path]) -> None:
    directory = directory_of("qwen2", intermediate_size=96)
    checkpoint = open_checkpoint(directory)
    options = EngineOptions(threads=2, quantization="f32")
    engine = native_backend.load(checkpoint, build_tokenizer(checkpoint).token_bytes, options)
    try:
        compare(directory, ask_all(engine, 3), 5e-3)
    finally:
        asyncio.run(engine.close())


def test_a_model_that_is_run_token_by_token_refuses(load) -> None:
    engine = load("mamba").engine
    with pytest.raises(InvalidRequest) as caught:
        asyncio.run(ask(engine, request("r", PROMPTS[0], 0)))
    assert caught.value.param == "echo"
    params = SamplingParams(max_tokens=0)
    (event,) = asyncio.run(ask(engine, GenerateRequest("r", PROMPTS[0], params)))
    assert event.num_prompt_tokens == 3
    assert len(asyncio.run(ask(engine, request("r", PROMPTS[1], None)))) == 4
