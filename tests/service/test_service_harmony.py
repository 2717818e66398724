"""A tokenizer of harmony as gpt-oss's directory has it, and what binds calls by its tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_server import open_client
from harmonist import HARMONY, TOOLS
from tiny_decoder_directories import write_json, write_tokenizer
from tiny_models import SMALLEST_VOCAB, write_tiny_qwen2

from llm_serving.backends.constraints import Constraints, Grammar
from llm_serving.backends.fake import load_fake_engine
from llm_serving.chat.harmony import calls_grammar
from llm_serving.chat.template import ChatTemplate
from llm_serving.chat.tools import normalize_tools
from llm_serving.checkpoints.directory_files import read_directory_tokenizer
from llm_serving.checkpoints.directory_tokenizer import DirectoryTokenizer
from llm_serving.config import Settings
from llm_serving.engine.channels import Channel
from llm_serving.engine.protocol import EngineOptions
from llm_serving.service.loader import load_chat_model
from llm_serving.service.model import ChatModel

NAMES = ["<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|return|>", "<|call|>"]
START, CHANNEL, MESSAGE, CONSTRAIN, END, RETURN, CALL = range(SMALLEST_VOCAB, SMALLEST_VOCAB + 7)


@pytest.fixture(params=[True, False], ids=["special", "added"])
def tokenizer(tmp_path: Path, request: pytest.FixtureRequest) -> DirectoryTokenizer:
    write_tokenizer(tmp_path, SMALLEST_VOCAB)
    path = tmp_path / "tokenizer.json"
    data = json.loads(path.read_text("utf-8"))
    pattern = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    data["added_tokens"] += [
        {"id": SMALLEST_VOCAB + i, "content": name, **pattern, "special": request.param}
        for i, name in enumerate(NAMES)
    ]
    path.write_text(json.dumps(data), "utf-8")
    write_json(tmp_path / "generation_config.json", {"eos_token_id": [RETURN, END]})  # and none for calls
    return read_directory_tokenizer(tmp_path)


def test_marks_are_text_and_answers_end_at_returns_and_calls(tokenizer: DirectoryTokenizer) -> None:
    assert tokenizer.eos_ids >= {RETURN, CALL}
    assert END not in tokenizer.eos_ids
    ids = tokenizer.encode_prompt("<|start|>a<|channel|>b<|message|><|end|>")
    assert ids[::2] == [START, CHANNEL, MESSAGE]
    assert tokenizer.decode([*ids, RETURN, CALL]) == "<|start|>a<|channel|>b<|message|><|end|>"
    assert tokenizer.special_ids >= set(range(START, CALL + 1))
    assert not set(tokenizer.encode_prompt(tokenizer.guard("<|end|>"))) & tokenizer.special_ids


def test_calls_are_bound_by_the_marks(tokenizer: DirectoryTokenizer) -> None:
    model = ChatModel("m", load_fake_engine(EngineOptions()), tokenizer, ChatTemplate(HARMONY))
    ids = model.channel_ids()
    assert ids is not None
    assert ids.begun[0] == START
    assert ids.headers[Channel.CALL][0] == CHANNEL
    assert ids.headers[Channel.FINAL][-1] == MESSAGE
    assert model.reasoning_ids() is None
    grammar = Grammar(calls_grammar(normalize_tools(TOOLS)))
    (bound,) = Constraints(tokenizer, tokenizer.vocab_size).build(grammar, 1, "tools")
    said = [*tokenizer.encode(".time "), CONSTRAIN, *tokenizer.encode("json"), MESSAGE]
    for token_id in [*said, *tokenizer.encode('{"city": "')]:
        mask = np.unpackbits(bound.allowed(), count=tokenizer.vocab_size, bitorder="little")
        assert mask[token_id]
        bound.accept(token_id)
    mask = np.unpackbits(bound.allowed(), count=tokenizer.vocab_size, bitorder="little")
    assert not mask[START : CALL + 1].any()  # no arguments end a message
    for token_id in tokenizer.encode('Rome"}'):
        assert not bound.is_over
        bound.accept(token_id)
    assert bound.is_over
    assert bound.is_satisfied


def test_without_the_marks_there_are_no_channels(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, SMALLEST_VOCAB)
    engine = load_fake_engine(EngineOptions())
    model = ChatModel("m", engine, read_directory_tokenizer(tmp_path), ChatTemplate(HARMONY))
    assert model.channel_ids() is None
    assert ChatModel("m", engine, model.tokenizer).channel_ids() is None


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("temperature", [0, 1])
async def test_a_real_engine_calls_what_it_must(tmp_path: Path, temperature: float) -> None:
    """A model that knows nothing, with random weights: headers, names and arguments are as bound."""
    shape = {"vocab": SMALLEST_VOCAB + 7, "last_tokens": tuple(NAMES), "context": 2048}
    path = write_tiny_qwen2(tmp_path / "tiny.gguf", **shape)

    def load(settings: Settings) -> ChatModel:
        return replace(load_chat_model(settings), template=ChatTemplate(HARMONY))

    asked = {"messages": [{"content": "Hi"}], "temperature": temperature, "seed": 1, "max_tokens": 500}
    async with open_client(load, model_name=str(path), engine="native") as client:
        for budget in (0, 4):
            body = {**asked, "thinking_token_budget": budget}
            called = {**body, "tools": TOOLS, "tool_choice": "required"}
            choice = (await client.post("/chat/completions", json=called)).json()["choices"][0]
            (call,) = choice["message"]["tool_calls"]
            assert call["function"]["name"] in ("weather", "time")
            assert json.loads(call["function"]["arguments"])["city"] in ("Oslo", "Rome")
            assert choice["finish_reason"] == "tool_calls"
            bound = {**body, "choice": ["yes", "no"]}
            choice = (await client.post("/chat/completions", json=bound)).json()["choices"][0]
            assert choice["message"]["content"] in ("yes", "no")
            assert choice["finish_reason"] == "stop"
