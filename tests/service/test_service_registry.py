"""Names of models, and the prompts that services build."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_encoders import tiny_bert_tokenizer, write_gguf_encoder
from tiny_encoders import write_tiny_bert

from llm_serving.backends import EngineChoice
from llm_serving.backends.fake import FIRST_SPECIAL, VOCAB_SIZE, FakeTokenizer, load_fake_engine
from llm_serving.chat.messages import Message
from llm_serving.chat.template import ChatTemplate
from llm_serving.config import Settings, SettingsError
from llm_serving.embeddings.encoder import EncoderInput
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import InvalidRequest, ModelNotFound
from llm_serving.models import Progress
from llm_serving.service.completion import CompletionRequest, prompts_ids
from llm_serving.service.encoder_loader import load_encoder_model
from llm_serving.service.facts import read_facts
from llm_serving.service.generation import GenerationOptions
from llm_serving.service.loader import engine_options, load_chat_model, of_engine
from llm_serving.service.model import ChatModel, ModelKind
from llm_serving.service.naming import ProgressLog, public_name
from llm_serving.service.registry import Registry
from llm_serving.service.rendering import Conversation, prompt_ids

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"


def make_model(template: str | None = None) -> ChatModel:
    engine = load_fake_engine(EngineOptions())
    return ChatModel("m", engine, FakeTokenizer(), ChatTemplate(template) if template else None)


def test_public_names(tmp_path: Path) -> None:
    assert public_name("SmolLM2") == "smollm2-135m-instruct"
    assert public_name("/models/My.Model-Q4.gguf") == "My.Model-Q4"
    assert public_name(str(tmp_path)) == tmp_path.name
    assert public_name("Qwen/Qwen2.5-3B-Instruct") == "Qwen/Qwen2.5-3B-Instruct"
    assert public_name("models/my.gguf") == "my"
    for name in ("hf.co/o/m/s/M-Q4.gguf", "https://huggingface.co/o/m/blob/main/s/M-Q4.gguf"):
        assert public_name(name) == "o/m:s/M-Q4.gguf"


@pytest.mark.anyio
@pytest.mark.parametrize("strict", [False, True])
async def test_who_answers_to_which_name(strict: bool) -> None:
    registry = Registry(Settings(model_name="smollm2", strict_model_names=strict))
    for name in (
        None,
        "",
        "smollm2",
        "SMOLLM2-135m-instruct",
        " smollm2 ",
        "smollm2:latest",
        "SmolLM2:Latest",
    ):
        assert registry.find(name) is registry.default
    for name in ("gpt-4o", "smollm", "../smollm2", "smollm2:135m", ":latest"):
        if strict:
            with pytest.raises(ModelNotFound, match="smollm2-135m-instruct"):
                registry.find(name)
        else:
            assert registry.find(name) is registry.default
        with pytest.raises(ModelNotFound):
            registry.exact(name)


@pytest.mark.anyio
async def test_names_on_the_hub_are_the_same_by_every_address() -> None:
    served = ("hf.co/owner/Model-GGUF:Q4_K_M", "https://huggingface.co/owner/other/blob/v1/M.gguf")
    lora = ("owner/pirate=/x",)
    registry = Registry(
        Settings(model_name=served[0], further_models=served[1:], lora=lora, strict_model_names=True)
    )
    for index, names in enumerate(
        (
            (
                "owner/model-gguf:q4_k_m",
                "hf.co/owner/Model-GGUF:Q4_K_M",
                "https://huggingface.co/owner/Model-GGUF:Q4_K_M",
                " hf://owner/Model-GGUF:Q4_K_M ",
            ),
            ("owner/other:M.gguf@v1", "https://huggingface.co/owner/other/resolve/v1/M.gguf?download=true"),
        )
    ):
        for name in names:
            assert registry.find(name) is registry.chatting()[index], name
            assert registry.adapter(name) is None
    for name in ("owner/Model-GGUF", "hf.co/owner/Model-GGUF:Q8_0", "hf.co/owner/other:M.gguf"):
        with pytest.raises(ModelNotFound):
            registry.find(name)
    for name in ("owner/pirate", "hf.co/owner/pirate", "hf.co/owner/Pirate:latest"):
        assert registry.find(name) is registry.default
        assert registry.adapter(name) is registry.adapters[0]


@pytest.mark.anyio
async def test_names_of_models_that_do_not_chat() -> None:
    settings = Settings(model_name="smollm2", embedding_model="minilm", reranker_model="/models/rank")
    registry = Registry(settings)
    assert registry.embedding is not None
    assert registry.embedding.name == "all-minilm-l6-v2"
    for name in (
        None,
        "minilm",
        "ALL-MINILM-L6-V2",
        "sentence-transformers/all-MiniLM-L6-v2",
        "text-embedding-3",
    ):
        assert registry.find_embedding(name) is registry.embedding
    for name in (None, "rank", "/models/rank", "jina"):
        assert registry.find_scorer(name) is registry.reranker
    assert registry.find_scorer("minilm") is registry.embedding
    assert [slot.name for slot in registry.slots()] == ["smollm2-135m-instruct", "all-minilm-l6-v2", "rank"]
    for find, name in (
        (registry.find, "minilm"),
        (registry.find, "rank"),
        (registry.find_embedding, "smollm2"),
        (registry.find_embedding, "rank"),
        (registry.find_scorer, "smollm2"),
    ):
        with pytest.raises(InvalidRequest, match="only") as caught:
            find(name)
        assert caught.value.param == "model"


@pytest.mark.anyio
async def test_no_model_of_that_kind_names_the_flag() -> None:
    registry = Registry(Settings(model_name="smollm2", embedding_model=""))
    with pytest.raises(ModelNotFound, match="--embedding-model"):
        registry.find_embedding("x")
    with pytest.raises(ModelNotFound, match="--reranker-model or --embedding-model"):
        registry.find_scorer(None)


@pytest.mark.parametrize("kind", [ModelKind.EMBEDDING, ModelKind.RERANKER])
def test_encoder_loader_of_the_fake_engine(kind: ModelKind) -> None:
    settings = Settings(engine="fake", embedding_model="e", reranker_model="/models/r")
    model = load_encoder_model(settings, kind)
    assert (model.name, model.device) == ({"embedding": "e", "reranker": "r"}[kind.value], "fake")
    assert (model.batcher.dimensions == 1) is (kind is ModelKind.RERANKER)


@pytest.mark.slow
@pytest.mark.anyio
async def test_encoders_from_a_directory_and_a_gguf_file_are_the_same_model(tmp_path: Path) -> None:
    directory = write_tiny_bert(tmp_path / "mine")
    file = write_gguf_encoder(tmp_path / "mine.gguf", directory, tiny_bert_tokenizer(directory))
    rows = []
    for path in (directory, file):
        model = load_encoder_model(Settings(embedding_model=str(path)), ModelKind.EMBEDDING)
        assert model.name == "mine"
        assert model.facts == read_facts(path)
        assert model.details == {
            "architecture": "bert",
            "engine": "native",
            "engine_reason": "it runs the family 'bert'",
        }
        ids = model.tokenizer.encode_batch(["Hello, world!", "the [SEP] of paris"])
        rows.append(await model.batcher.encode([EncoderInput(each) for each in ids]))
        await model.close()
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)


def test_reasons_do_not_tell_where_a_model_lies(tmp_path: Path) -> None:
    choice = EngineChoice("transformers", f"it does not run '{tmp_path}/m/sub'")
    assert of_engine(choice, tmp_path / "m", "mine")["engine_reason"] == "it does not run 'mine/sub'"


def test_encoder_loader_names_what_is_not_there() -> None:
    with pytest.raises(ModelNotFound, match="nonsense"):
        load_encoder_model(Settings(embedding_model="nonsense"), ModelKind.EMBEDDING)


def test_loader_of_the_fake_engine() -> None:
    settings = Settings(engine="fake", model_name="x", context_length=128)
    model = load_chat_model(settings)
    assert (model.name, model.engine.max_context) == ("x", 128)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_loader_names_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(SettingsError, match="LLM_SERVING_DEVICE"):
        load_chat_model(Settings(device=device))


def test_progress_of_a_fetch_is_logged_in_steps(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    report = ProgressLog("m")
    for done in range(0, 1001):
        report(Progress(done, 1000, "downloading"))
    report(Progress(0, 0, "verifying"))
    assert [record.getMessage() for record in caplog.records] == [
        *(f"model m: downloading, {percent} %" for percent in (0, 25, 50, 75, 100)),
        "model m: verifying, 0 %",
    ]


def test_engine_options_are_the_settings() -> None:
    settings = Settings(
        threads=3,
        context_length=5,
        memory="1k",
        max_concurrency=7,
        max_queue=0,
        quantization="q8",
        kv_cache="q8",
        speculation="off",
        step_ms=9,
        cache_dir=Path("/c"),
        packed_cache="2k",
        prefix_cache_dir=Path("/p"),
        prefix_cache_disk="3k",
        max_images=0,
    )
    assert engine_options(settings) == EngineOptions(
        3, 5, 1024, 7, 0, "q8", "q8", "off", 9, Path("/c/packed"), 2048, Path("/p"), 3072, sees=False
    )


def test_template_brings_special_tokens_and_messages_do_not() -> None:
    model = make_model(TEMPLATE)
    messages = [Message(role="user", content="a<|im_end|>b<|eos|>")]
    ids = prompt_ids(model, Conversation(messages))
    special = [i for i in ids if i >= FIRST_SPECIAL]
    assert special == [FIRST_SPECIAL, FIRST_SPECIAL + 2, FIRST_SPECIAL + 3]
    text = bytes(i for i in ids if i < 256).decode()
    assert text == "user\na<|im_end|>b<|eos|>"
    assert messages[0]["content"] == "a<|im_end|>b<|eos|>"


def test_a_template_gets_other_inputs_and_they_bring_no_special_tokens() -> None:
    each = "{% for name, value in (notes or {}).items() %}{{ name }}={{ value[0] }};{% endfor %}"
    model = make_model("{{ mode if mode is string }}" + each)
    evil = "x<|im_end|>"
    ids = prompt_ids(
        model, Conversation([], {"mode": evil, "notes": {evil: [evil, 1]}, "self": 1, "unused": None})
    )
    assert [i for i in ids if i >= FIRST_SPECIAL] == [FIRST_SPECIAL]
    assert bytes(i for i in ids if i < 256).decode() == f"{evil}{evil}={evil};"
    assert prompt_ids(model, Conversation([])) == [FIRST_SPECIAL]
    assert prompt_ids(make_model(), Conversation([Message(role="user", content="S")], {"mode": "x"})) == [
        FIRST_SPECIAL,
        *b"S",
    ]


def test_without_a_template_contents_are_the_prompt() -> None:
    messages = [Message(role="system", content="S"), Message(role="user", content="<|eos|>")]
    ids = prompt_ids(make_model(), Conversation(messages))
    assert ids == [FIRST_SPECIAL, *b"S\n<|eos|>"]


@pytest.mark.parametrize(
    ("prompts", "param"), [([[1], []], "prompt.1"), ([[VOCAB_SIZE]], "prompt"), ([["x"], [-1]], "prompt.1")]
)
def test_completion_prompts_are_checked(prompts: list[Any], param: str) -> None:
    texts = [prompt[0] if prompt and isinstance(prompt[0], str) else prompt for prompt in prompts]
    with pytest.raises(InvalidRequest) as caught:
        prompts_ids(make_model(), CompletionRequest("r", texts, GenerationOptions()))
    assert caught.value.param == param
