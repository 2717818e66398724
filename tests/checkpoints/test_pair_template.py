"""Prompts that rerankers put pairs into: their places, users' text in them, and cutting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_encoders import BERT_VOCAB, write_bert_tokenizer, write_json

from llm_serving.checkpoints import (
    Checkpoint,
    EncoderTokenizer,
    PairTemplate,
    build_encoder_tokenizer,
    qwen3_template,
    read_gguf_pair_template,
    read_jinja_template,
)
from llm_serving.errors import CheckpointError

CLS, SEP = 2, 3
TEMPLATE = PairTemplate.parse("[CLS]is {query} in{document}[SEP]it", "the test")


def ids(text: str) -> list[int]:
    return [BERT_VOCAB.index(word) for word in text.split()]


@pytest.fixture
def tokenizer(tmp_path: Path) -> EncoderTokenizer:
    write_bert_tokenizer(tmp_path)
    plain = build_encoder_tokenizer(Checkpoint(str(tmp_path), "bert", {}, {}, format="huggingface"))
    return plain.with_template(TEMPLATE)


def test_the_template_is_around_both_and_its_special_tokens_are_such(tokenizer: EncoderTokenizer) -> None:
    expected = [CLS, *ids("is paris in the world"), SEP, *ids("it")]
    assert tokenizer.encode_pair("paris", " the world") == (expected, len(expected))
    assert [pair for pair, _ in tokenizer.encode_pairs("paris", [" the world"] * 2)] == [expected] * 2


def test_users_text_is_neither_a_special_token_nor_a_place(tokenizer: EncoderTokenizer) -> None:
    found, _ = tokenizer.encode_pair("[SEP]", " {query}[CLS]")
    assert (found.count(CLS), found.count(SEP)) == (1, 1)
    assert tokenizer.decode(found).count("{") == 1


def test_the_documents_end_is_cut(tokenizer: EncoderTokenizer) -> None:
    whole, _ = tokenizer.encode_pair("paris", " the world of france")
    cut, _ = tokenizer.encode_pair("paris", " the world of france", len(whole) - 2)
    assert cut == [CLS, *ids("is paris in the world"), SEP, *ids("it")]
    with pytest.raises(ValueError, match="3 tokens leave no room in the model's own prompt"):
        tokenizer.encode_pair("paris", " the world", 3)


@pytest.mark.parametrize("source", ["", "{query}", "{document}", "{query}{document}{document}"])
def test_both_places_are_needed(source: str) -> None:
    with pytest.raises(CheckpointError, match="x: must have a place for the query and one for the document"):
        PairTemplate.parse(source, "x:")
    key = "tokenizer.chat_template.rerank"
    with pytest.raises(CheckpointError, match=rf"m\.gguf: '{key}' must have"):
        read_gguf_pair_template(Checkpoint("m.gguf", "qwen3", {key: source}, {}))


def test_a_gguf_template_that_is_no_text_is_refused() -> None:
    with pytest.raises(CheckpointError, match="rerank' is not a text"):
        read_gguf_pair_template(Checkpoint("m.gguf", "qwen3", {"tokenizer.chat_template.rerank": 1}, {}))
    assert read_gguf_pair_template(Checkpoint("m.gguf", "qwen3", {}, {})) is None


def test_the_instruction_of_qwen3_is_for_web_searches_unless_there_is_another() -> None:
    assert "<Instruct>: Given a web search query, " in qwen3_template().parts[0]
    assert qwen3_template("{document}").parts[0].endswith("<Instruct>: {document}\n<Query>: ")
    assert qwen3_template().parts[1::2] == ("query", "document")


def test_where_a_directory_keeps_its_chat_template(tmp_path: Path) -> None:
    checkpoint = Checkpoint(str(tmp_path), "qwen3", {}, {}, format="huggingface")
    assert read_jinja_template(Path(checkpoint.path)) is None
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": named})
    assert read_jinja_template(Path(checkpoint.path)) == "d"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "c"}))
    assert read_jinja_template(Path(checkpoint.path)) == "c"
    (tmp_path / "chat_template.jinja").write_text("j")
    assert read_jinja_template(Path(checkpoint.path)) == "j"
    (tmp_path / "chat_template.jinja").write_text("j" * (1 << 20) + "j")
    with pytest.raises(CheckpointError, match="which is no template"):
        read_jinja_template(Path(checkpoint.path))
