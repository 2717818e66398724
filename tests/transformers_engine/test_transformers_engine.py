"""Models of many families on the transformers engine, against `generate()` and against the native sampler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch; run it with: make parity")

import numpy as np  # noqa: E402
import transformers  # noqa: E402
from tiny_directories import CONFIGS, VOCAB_SIZE, write_model  # noqa: E402

from llm_serving.backends.transformers_backend import load_causal_lm, memory_need  # noqa: E402
from llm_serving.engine.protocol import Engine, EngineOptions, SamplingRow  # noqa: E402
from llm_serving.engine.request import (  # noqa: E402
    FinishReason,
    GenerateRequest,
    SamplingParams,
    TokenEvent,
)
from llm_serving.engine.sampler import NumpySampler  # noqa: E402
from llm_serving.errors import (  # noqa: E402
    CheckpointError,
    EngineDead,
    InvalidRequest,
    Overloaded,
    ServingError,
)

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

PROMPTS = [[(7 * i + j * j) % VOCAB_SIZE for j in range(n)] for i, n in enumerate([3, 20, 5, 40, 1, 33])]


def request(prompt: list[int], name: str = "r", max_tokens: int = 12, **sampling: object) -> GenerateRequest:
    params = SamplingParams(max_tokens=max_tokens, **{"temperature": 0.0, **sampling})
    return GenerateRequest(name, prompt, params)


async def collect(engine: Engine, a_request: GenerateRequest) -> list[TokenEvent]:
    async with await engine.submit(a_request) as stream:
        return [event async for event in stream]


def tokens(events: list[TokenEvent]) -> list[int]:
    return [token for event in events for token in event.token_ids]


def together(engine: Engine, requests: list[GenerateRequest]) -> list[list[TokenEvent]]:
    async def run() -> list[list[TokenEvent]]:
        return await asyncio.gather(*(collect(engine, each) for each in requests))

    return asyncio.run(run())


def reference(directory: Path) -> transformers.PreTrainedModel:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    model.generation_config.eos_token_id = None
    return model


@pytest.mark.parametrize("family", CONFIGS)
def test_greedy_answers_are_generates(load, directory_of, family: str) -> None:
    """All at once: prompts of many lengths are padded, cut into steps, and decoded in one batch."""
    model = reference(directory_of(family))
    expected = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        expected.append(out[0, len(prompt) :].tolist())
    lm = load(family)
    requests = [request(prompt, f"r{i}") for i, prompt in enumerate(PROMPTS)]
    assert [tokens(events) for events in together(lm.engine, requests)] == expected
    assert lm.details["batching"] == ("one at a time" if family == "mamba" else "continuous")
    assert len({tuple(each) for each in expected}) > 3


@pytest.mark.parametrize("family", ["qwen2", "mamba"])
def test_sampling_is_the_native_samplers(load, directory_of, family: str) -> None:
    how = {
        "temperature": 0.9,
        "top_p": 0.9,
        "top_k": 50,
        "min_p": 0.01,
        "typical_p": 0.9,
        "frequency_penalty": 0.5,
    }
    params = SamplingParams(max_tokens=12, seed=11, repetition_penalty=1.2, **how)
    model, prompt = reference(directory_of(family)), PROMPTS[1]
    output: list[int] = []
    for _ in range(params.max_tokens):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + output]), use_cache=False).logits[:, -1].numpy().copy()
        row = SamplingRow(params, len(prompt) + len(output), prompt, list(output))
        output += NumpySampler().sample(logits, [row])
    lm = load(family)
    assert tokens(asyncio.run(collect(lm.engine, GenerateRequest("r", prompt, params)))) == output
    other = tokens(asyncio.run(collect(lm.engine, request(prompt, **how, seed=12))))
    assert other != output


@pytest.mark.parametrize("family", ["bloom", "mamba"])
def test_stop_strings_and_the_end(load, family: str) -> None:
    lm = load(family)
    engine, prompt = lm.engine, PROMPTS[1]
    free = asyncio.run(collect(engine, request(prompt, max_tokens=30)))
    text, ids = "".join(event.text for event in free), tokens(free)
    # The model chooses from more ids than the tokenizer has texts for, as padded vocabularies do.
    assert lm.tokenizer.decode(i for i in ids if i < lm.tokenizer.vocab_size) == text
    stop = text[len(text) // 2 :][:3]
    events = asyncio.run(collect(engine, request(prompt, max_tokens=30, stop=(stop,))))
    assert "".join(event.text for event in events) == text[: text.index(stop)]
    assert events[-1].finish_reason is FinishReason.STOP
    params = SamplingParams(max_tokens=30, temperature=0.0)
    events = asyncio.run(collect(engine, GenerateRequest("r", prompt, params, frozenset({ids[4]}))))
    assert tokens(events) == ids[: ids.index(ids[4]) + 1]
    assert events[-1].finish_reason is FinishReason.STOP


@pytest.mark.parametrize("family", ["qwen2", "mamba"])
def test_leaving_ends_within_a_token_and_frees_the_place(load, family: str) -> None:
    engine = load(family, max_concurrency=1, max_queue=1).engine

    async def run() -> int:
        async with await engine.submit(request(PROMPTS[0], "left", max_tokens=100)) as stream:
            seen = 0
            async for event in stream:
                seen += len(event.token_ids)
                if seen >= 3:
                    break
        before = engine.stats().num_generated_tokens
        answer = await collect(engine, request(PROMPTS[1], "next"))
        assert engine.stats().num_generated_tokens - len(tokens(answer)) <= before + 1
        return before

    assert asyncio.run(run()) < 100


@pytest.mark.parametrize("family", ["qwen2", "mamba"])
def test_a_full_queue_refuses(load, family: str) -> None:
    engine = load(family, max_concurrency=1, max_queue=1).engine

    async def run() -> None:
        streams = [await engine.submit(request(PROMPTS[0], f"r{i}", max_tokens=20)) for i in range(2)]
        with pytest.raises(Overloaded):
            await engine.submit(request(PROMPTS[0], "one too many"))
        for stream in streams:
            assert len(tokens([event async for event in stream])) == 20

    asyncio.run(run())


def test_recurrent_models_answer_the_queue_in_turn(load) -> None:
    engine = load("mamba").engine
    alone = [tokens(asyncio.run(collect(engine, request(prompt)))) for prompt in PROMPTS]
    crowd = together(engine, [request(prompt, f"r{i}") for i, prompt in enumerate(PROMPTS)])
    assert [tokens(events) for events in crowd] == alone


@pytest.mark.parametrize("family", ["qwen2", "mamba"])
def test_a_failing_model_is_a_dead_engine(load, family: str) -> None:
    engine = load(family).engine
    engine._runner._model.lm_head.weight = None
    with pytest.raises(EngineDead):
        asyncio.run(collect(engine, request(PROMPTS[0])))


@pytest.mark.parametrize(("dtype", "name"), [("bf16", "bfloat16"), ("f16", "float16"), ("auto", "float32")])
def test_type_of_the_weights(load, dtype: str, name: str) -> None:
    lm = load("qwen2", quantization=dtype)
    assert lm.details["dtype"] == name
    assert len(tokens(asyncio.run(collect(lm.engine, request(PROMPTS[1]))))) == 12


def test_context_is_the_models_or_what_was_asked(load) -> None:
    assert load("qwen2").engine.max_context == 128
    assert load("qwen2", context_length=64).engine.max_context == 64
    assert load("qwen2", context_length=10**6).engine.max_context == 128
    assert load("mamba", context_length=50).engine.max_context == 50


def test_what_is_needed_is_known_before(directory_of: Callable[..., Path]) -> None:
    directory = directory_of("qwen2")
    need = memory_need(directory, "cpu")
    assert need.weights > sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    assert 0 < need.least_kv <= need.conversation_kv <= need.most_kv
    with pytest.raises(InvalidRequest, match="no device"):
        memory_need(directory, "cuda:9")


def test_memory_bounds_the_cache(load) -> None:
    bound = (500 << 20) + (400 << 10)
    small = load("qwen2", memory_bytes=bound).engine
    assert 2 <= small.stats().num_blocks < 32 * 8
    with pytest.raises(ServingError, match="--memory"):
        load("qwen2", memory_bytes=500 << 20, context_length=128)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"quantization": "q4"}, "f32, f16, bf16"),
        ({"kv_cache": "q8"}, "leave it at auto"),
        ({"device": "cuda:7"}, "'cuda:7' on this machine; there are: cpu"),
        ({"device": "mps"}, "'mps' on this machine"),
    ],
)
def test_what_is_asked_wrongly_is_named(
    directory_of: Callable[..., Path], change: dict[str, str], says: str
) -> None:
    device = {"device": "cpu", **change}.pop("device")
    options = EngineOptions(**{name: value for name, value in change.items() if name != "device"})  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=says):
        load_causal_lm(directory_of("qwen2"), options, device)


def test_damaged_directories_are_refused(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m", "qwen2")
    (directory / "config.json").write_text('{"model_type": "unheard-of", "auto_map": {"AutoConfig": "x.Y"}}')
    with pytest.raises(CheckpointError, match=str(directory)):
        load_causal_lm(directory, EngineOptions(), "cpu")
    write_model(directory, "qwen2")
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="cannot load"):
        load_causal_lm(directory, EngineOptions(), "cpu")
    weights.rename(directory / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled"):
        load_causal_lm(directory, EngineOptions(), "cpu")


def test_missing_weights_are_not_made_up(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    directory = write_model(tmp_path / "m", "qwen2")
    weights = directory / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match="up_proj"):
        load_causal_lm(directory, EngineOptions(), "cpu")


def test_logits_of_any_row_of_a_step(directory_of: Callable[..., Path]) -> None:
    """The engine wants last rows only; the seam promises more."""
    from llm_serving.backends.transformers_backend.loading import build_runner
    from llm_serving.engine.protocol import Step

    model = reference(directory_of("qwen2"))
    runner = build_runner(model, EngineOptions(max_concurrency=2), torch.device("cpu"))
    a, b = PROMPTS[1][:9], PROMPTS[3][:6]
    step = Step(
        token_ids=np.array(a + b, np.int32),
        positions=np.array([*range(9), *range(6)], np.int32),
        query_starts=np.array([0, 9, 15], np.int32),
        block_tables=np.array([[3], [1]], np.int32),
        logit_rows=np.array([14, 2, 8, 9], np.int32),
    )
    got = runner.run(step)
    with torch.inference_mode():
        of_a, of_b = (model(torch.tensor([ids])).logits[0].numpy() for ids in (a, b))
    np.testing.assert_allclose(got, [of_b[5], of_a[2], of_a[8], of_b[0]], atol=1e-4)
    runner.close()
    runner.close()
