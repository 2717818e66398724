"""Token ids of encoders, alone, in batches and in pairs, equal to `transformers`' for the same files."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).parents[1] / "checkpoints"))

from gguf_encoders import write_gguf_tokenizer  # noqa: E402
from tokenizer_texts import TEXTS  # noqa: E402
from transformers_encoders import CONFIGS, learn_tokenizer  # noqa: E402

from llm_serving.checkpoints import Checkpoint, EncoderTokenizer, build_encoder_tokenizer, read_gguf  # noqa: E402
from llm_serving.models import ModelCache, find_model  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

ENGLISH = (Path(__file__).parent / "english.txt").read_text("utf-8")
CODE = Path(__file__).read_text("utf-8")
CORPUS = [*TEXTS, *ENGLISH.splitlines(), CODE, "".join(TEXTS), "\n".join(TEXTS)]
# Every printable character of the planes in use, in stretches: what normalizers and pre-tokenizers differ on.
for start in (*range(0, 0x3400, 256), *range(0xA000, 0xD800, 1024), 0xE000, 0xF900, 0xFF00, 0x1F300, 0x1F600):
    CORPUS.append(" ".join(chr(code) + chr(code + 1) for code in range(start, start + 256, 2)))
CORPUS = [text.encode("utf-8", "ignore").decode() for text in CORPUS]
LEARNED_FROM = [*TEXTS[:28], *ENGLISH.splitlines()]


@cache
def learned(family: str) -> Any:
    return learn_tokenizer(family, LEARNED_FROM)


def same_everywhere(ours: EncoderTokenizer, theirs: Any) -> None:
    # In Unigram models, text becomes special tokens in transformers, whatever it is told; in ours not.
    special = (
        theirs.all_special_tokens if theirs.backend_tokenizer.model.__class__.__name__ == "Unigram" else []
    )
    texts = [text for text in CORPUS if not any(token in text for token in special)]
    assert len(texts) > 100
    expected = [theirs.encode(text, split_special_tokens=True) for text in texts]
    for text, ids, wanted in zip(texts, ours.encode_batch(texts), expected, strict=True):
        assert ids == wanted, text[:200]
        assert ours.encode(text) == wanted
        text = theirs.decode(wanted, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert ours.decode(ids) == text
    assert ours.vocab_size == len(theirs)
    for first, second in zip(texts[:40], texts[7:47], strict=True):
        ids, second_segment = ours.encode_pair(first, second)
        # In a list, because an empty second text alone is none to transformers.
        wanted = theirs([(first, second)], split_special_tokens=True)
        assert ids == wanted["input_ids"][0]
        if 1 in wanted.sequence_ids(0):
            assert second_segment == wanted.sequence_ids(0).index(1)
        for max_tokens in (9, 20, 33):
            cut = theirs([(first, second)], split_special_tokens=True, truncation=True, max_length=max_tokens)
            assert ours.encode_pair(first, second, max_tokens)[0] == cut["input_ids"][0]
    for text, ids in zip(texts[:40], expected[:40], strict=True):
        for max_tokens in (4, 17):
            cut = theirs.encode(text, split_special_tokens=True, truncation=True, max_length=max_tokens)
            assert ours.truncate(ids, max_tokens) == cut


def no_special_from_text(ours: EncoderTokenizer, special: list[str], plain_unknown: set[int]) -> None:
    for text in ("".join(special), " ".join(special), "the" + special[0] + "the " + special[-1] + "."):
        ids = ours.encode(text)
        inner = ids[len(ours.encode("")) - 1 : -1] if len(ours.encode("")) > 1 else ids[:-1]
        assert not (set(inner) & ours.special_ids) - plain_unknown, text


@pytest.mark.parametrize("family", [name for name in CONFIGS if name not in ("distilbert", "nomic_bert")])
def test_families(tmp_path: Path, family: str) -> None:
    theirs = learned(family)
    theirs.save_pretrained(tmp_path)
    ours = build_encoder_tokenizer(Checkpoint(str(tmp_path), family, {}, {}, format="huggingface"))
    same_everywhere(ours, theirs)
    unknown = {theirs.unk_token_id} if theirs.unk_token_id is not None else set()
    no_special_from_text(ours, theirs.all_special_tokens, unknown)


@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "roberta", "modernbert", "qwen3"])
def test_families_from_gguf(tmp_path: Path, family: str) -> None:
    theirs = learned(family)
    ours = build_encoder_tokenizer(read_gguf(write_gguf_tokenizer(tmp_path / "m.gguf", family, theirs)))
    same_everywhere(ours, theirs)


@pytest.mark.parametrize("lower_case", [True, False])
def test_vocab_txt(tmp_path: Path, lower_case: bool) -> None:
    ids = learned("bert").get_vocab()
    vocab = sorted(ids, key=ids.__getitem__)
    (tmp_path / "vocab.txt").write_text("\n".join(vocab) + "\n", "utf-8")
    theirs = transformers.BertTokenizer(vocab=ids, do_lower_case=lower_case)
    (tmp_path / "tokenizer_config.json").write_text(f'{{"do_lower_case": {str(lower_case).lower()}}}')
    ours = build_encoder_tokenizer(Checkpoint(str(tmp_path), "bert", {}, {}, format="huggingface"))
    same_everywhere(ours, theirs)


def test_default_embedding_model() -> None:
    named = os.environ.get("LLM_SERVING_TEST_EMBEDDING_MODEL")
    spec = find_model("all-minilm-l6-v2")
    path = Path(named) if named else ModelCache().find(spec) if spec else None
    if path is None:
        pytest.skip("the default embedding model is not in the cache: llm-serving models pull")
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    ours = build_encoder_tokenizer(Checkpoint(str(path), "bert", {}, {}, format="huggingface"))
    same_everywhere(ours, theirs)
    no_special_from_text(ours, theirs.all_special_tokens, set())
