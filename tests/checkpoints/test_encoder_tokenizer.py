"""Encoder tokenizers: special tokens around texts and pairs, cutting, token arrays, hostile files."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tiny_encoders import BERT_VOCAB, write_bert_tokenizer, write_json, write_tiny_bert
from tokenizer_texts import TEXTS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from llm_serving.checkpoints import Checkpoint, EncoderTokenizer, build_encoder_tokenizer, open_checkpoint
from llm_serving.errors import CheckpointError

CLS, SEP, UNK, MASK = 2, 3, 1, 4
HELLO, WORLD, THE = (BERT_VOCAB.index(word) for word in ("hello", "world", "the"))


def build(directory: Path, architecture: str = "bert") -> EncoderTokenizer:
    return build_encoder_tokenizer(Checkpoint(str(directory), architecture, {}, {}, format="huggingface"))


@pytest.fixture
def bert(tmp_path: Path) -> EncoderTokenizer:
    write_bert_tokenizer(tmp_path, len(BERT_VOCAB) + 20)
    return build(tmp_path)


def test_facts(bert: EncoderTokenizer) -> None:
    assert bert.vocab_size == len(BERT_VOCAB) + 20
    assert bert.special_ids == {0, 1, 2, 3, 4}
    assert bert.max_tokens == 512


def test_texts_get_special_tokens_and_no_others(bert: EncoderTokenizer) -> None:
    assert bert.encode("Hello, the WORLD") == [CLS, HELLO, BERT_VOCAB.index(","), THE, WORLD, SEP]
    assert bert.encode("") == bert.encode(" \n") == [CLS, SEP]
    assert bert.encode_batch([]) == []
    assert bert.encode("hello [SEP] world [MASK][CLS]").count(SEP) == 1
    assert 4 not in bert.encode("[MASK]")


def test_special_tokens_are_recognised_in_the_models_own_prompt_only(bert: EncoderTokenizer) -> None:
    prompt = "[MASK] the [SEP]hello"
    assert bert.encode_batch(["world", "[SEP]", ""], prompt) == [
        [CLS, MASK, THE, SEP, *bert.encode("helloworld")[1:]],
        [CLS, MASK, THE, SEP, HELLO, *bert.encode("[SEP]")[1:]],
        [CLS, MASK, THE, SEP, HELLO, SEP],
    ]
    assert bert.encode_batch(["SEP] world"], "hello [") == [bert.encode("hello [SEP] world")]
    assert bert.encode_batch(["world"], "hello ") == [bert.encode("hello world")]
    assert bert.encode_batch(["world"], "[CLS]") == [[CLS, CLS, WORLD, SEP]]


def test_batches_are_the_single_texts_uncut_and_unpadded(bert: EncoderTokenizer) -> None:
    texts = [*TEXTS, "the " * 5000]
    batch = bert.encode_batch(texts)
    assert batch == [bert.encode(text) for text in texts]
    assert len(batch[-1]) == 5002
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(bert.encode, texts)) == batch


def test_what_is_no_text_becomes_the_replacement_character(bert: EncoderTokenizer) -> None:
    assert bert.encode("hello \ud83d world") == bert.encode("hello \ufffd world")


def test_pairs_say_where_the_second_text_begins(bert: EncoderTokenizer) -> None:
    assert bert.encode_pair("hello", "the world") == ([CLS, HELLO, SEP, THE, WORLD, SEP], 3)
    assert bert.encode_pair("", "") == ([CLS, SEP, SEP], 2)
    assert bert.encode_pairs("hello", ["world", "the"]) == [
        ([CLS, HELLO, SEP, WORLD, SEP], 3),
        ([CLS, HELLO, SEP, THE, SEP], 3),
    ]
    assert bert.encode_pairs("hello", []) == []


@pytest.mark.parametrize(
    ("first", "second", "max_tokens", "kept"),
    [
        (3, 3, 9, (3, 3)),
        (2, 9, 9, (2, 4)),
        (9, 2, 9, (4, 2)),
        (9, 9, 9, (3, 3)),
        (9, 9, 10, (3, 4)),
        (9, 8, 10, (4, 3)),
        (0, 9, 4, (0, 1)),
        (5, 5, 4, (0, 1)),
    ],
)
def test_pairs_are_cut_at_the_longer_text(
    bert: EncoderTokenizer, first: int, second: int, max_tokens: int, kept: tuple[int, int]
) -> None:
    ids, second_segment = bert.encode_pair("hello " * first, "world " * second, max_tokens)
    assert ids == [CLS, *[HELLO] * kept[0], SEP, *[WORLD] * kept[1], SEP]
    assert second_segment == kept[0] + 2
    with pytest.raises(ValueError, match="leave no room"):
        bert.encode_pair("hello", "world", 3)


def test_cutting_keeps_the_closing_token(bert: EncoderTokenizer) -> None:
    ids = bert.encode("the hello world")
    assert bert.truncate(ids, 5) == ids
    assert bert.truncate(ids, 4) == [CLS, THE, HELLO, SEP]
    assert bert.truncate(ids, 3) == [CLS, THE, SEP]
    assert bert.truncate([THE, HELLO, WORLD, THE], 3) == [THE, HELLO, WORLD]
    with pytest.raises(ValueError, match="2 tokens leave no room between 2 special ones"):
        bert.truncate(ids, 2)


def test_token_arrays_become_what_their_text_becomes(bert: EncoderTokenizer) -> None:
    ids = bert.encode("hello world")
    for array in (ids, ids[1:], ids[:-1], ids[1:-1]):
        assert bert.add_special(array) == ids
    assert bert.add_special([]) == bert.encode("")
    for wrong in (-1, bert.vocab_size):
        with pytest.raises(ValueError, match=f"token id {wrong} is not in the vocabulary"):
            bert.add_special([HELLO, wrong])
        with pytest.raises(ValueError, match=f"token id {wrong} is not"):
            bert.decode([wrong])


def test_decoding_leaves_special_tokens_out(bert: EncoderTokenizer) -> None:
    assert bert.decode(bert.encode("Hello, worlds!")) == "hello, worlds!"
    assert bert.decode([]) == bert.decode([CLS, SEP]) == ""


def test_settings_of_sentence_transformers_count(tmp_path: Path) -> None:
    write_tiny_bert(tmp_path, max_tokens=20, positions=40)
    assert build_encoder_tokenizer(open_checkpoint(tmp_path)).max_tokens == 20
    write_bert_tokenizer(tmp_path, lower_case=False)
    cased = build_encoder_tokenizer(open_checkpoint(tmp_path))
    assert cased.encode("HELLO") == [CLS, UNK, SEP]
    write_json(tmp_path / "sentence_bert_config.json", {"do_lower_case": True})
    assert build_encoder_tokenizer(open_checkpoint(tmp_path)).encode("HELLO") == [CLS, HELLO, SEP]


@pytest.mark.parametrize("limit", [10**30, 1e30, 0, -1, True, "512", None])
def test_lengths_that_are_none(tmp_path: Path, limit: Any) -> None:
    write_bert_tokenizer(tmp_path)
    write_json(tmp_path / "tokenizer_config.json", {"model_max_length": limit})
    assert build(tmp_path).max_tokens is None


def test_truncation_and_padding_in_the_file_do_not_count(tmp_path: Path) -> None:
    write_bert_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert len(build(tmp_path).encode("the " * 30)) == 32


def test_the_config_goes_before_the_normalizer(tmp_path: Path) -> None:
    write_bert_tokenizer(tmp_path, lower_case=True)
    write_json(tmp_path / "tokenizer_config.json", {"do_lower_case": False})
    assert build(tmp_path).encode("HELLO hello") == [CLS, UNK, HELLO, SEP]
    write_json(tmp_path / "tokenizer_config.json", {"do_lower_case": "no"})
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: .*lowercase is neither"):
        build(tmp_path)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_vocab_txt(tmp_path: Path, newline: str) -> None:
    (tmp_path / "vocab.txt").write_bytes((newline.join(BERT_VOCAB) + newline).encode())
    bert = build(tmp_path)
    assert bert.encode("Hello the [SEP]")[:3] == [CLS, HELLO, THE]
    assert bert.encode("Hello the [SEP]").count(SEP) == 1
    assert bert.encode_pair("hello", "world") == ([CLS, HELLO, SEP, WORLD, SEP], 3)
    assert build(tmp_path, "mpnet").encode_pair("hello", "world") == ([CLS, HELLO, SEP, SEP, WORLD, SEP], 4)
    write_json(tmp_path / "tokenizer_config.json", {"sep_token": {"content": "</s>"}})
    with pytest.raises(CheckpointError, match=r"vocab\.txt: the special token '</s>' is not in it"):
        build(tmp_path)


def test_unigram_text_cannot_become_special(tmp_path: Path) -> None:
    """Such a model finds special tokens by itself: they stand in its table, with the best of scores."""
    pieces = [("<s>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -3.0) for c in "▁<>/sunkhelo")]
    tokenizer = Tokenizer(models.Unigram(pieces, 2, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<s>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ours = build(tmp_path)
    assert ours.encode("hello")[0] == 0
    for text in ("<s>", "hello </s>hello<s>", "<s></s><unk><s>", "he<s"):
        ids = ours.encode(text)
        assert not set(ids[1:-1]) & ours.special_ids
        assert ours.decode(ids) == text


Damage = Callable[[dict[str, Any]], object]


def normalizer(charsmap: str) -> dict[str, str]:
    return {"type": "Precompiled", "precompiled_charsmap": charsmap}


DAMAGES: list[Damage] = [
    lambda tokenizer: tokenizer.clear(),
    lambda tokenizer: tokenizer["model"].update(vocab={"a": -1}),
    lambda tokenizer: tokenizer["model"].update(vocab={"a": 0}),  # a word is unknown, and so is [UNK]
    lambda tokenizer: tokenizer["post_processor"].update(special_tokens={}),
    lambda tokenizer: tokenizer["post_processor"]["special_tokens"]["[SEP]"].update(ids=[99999]),
    lambda tokenizer: tokenizer.update(pre_tokenizer={"type": "FixedLength", "length": 0}),
    lambda tokenizer: tokenizer.update(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated", "invert": False}
    ),
    lambda tokenizer: tokenizer.update(normalizer=normalizer("AAAA")),
    lambda tokenizer: tokenizer.update(normalizer=normalizer("AAAAAA==")),
    lambda tokenizer: tokenizer.update(normalizer=json.loads('{"a":' * 200 + "1" + "}" * 200)),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_errors_that_name_them(tmp_path: Path, damage: Damage) -> None:
    write_bert_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    damage(tokenizer)
    write_json(path, tokenizer)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: "):
        build(tmp_path)


def test_a_directory_without_a_tokenizer_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor vocab\.txt.*save_pretrained"):
        build(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\x00")
    with pytest.raises(CheckpointError, match="this is no tokenizer"):
        build(tmp_path)
