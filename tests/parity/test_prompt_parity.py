"""Prompts of a model's own settings, special tokens in them included, as sentence-transformers reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

sentence_transformers = pytest.importorskip(
    "sentence_transformers", reason="the parity suite needs torch; run it with: make parity"
)

from tiny_encoders import write_json  # noqa: E402
from transformers_encoders import save_encoder  # noqa: E402

from llm_serving.backends import load_encoder  # noqa: E402
from llm_serving.checkpoints import build_encoder_tokenizer, open_checkpoint  # noqa: E402
from llm_serving.embeddings.encoder import EncoderInput  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

TEXTS = ["the fox", " Who came?", "a week", "über 中文"]
# Instructions in plain words, special tokens inside and at both ends, and a word that goes on in the text.
PROMPTS = {
    "qwen3": [
        "Instruct: Given a web search query, retrieve passages\nQuery:",
        "<|im_start|>user\n",
        "Query: <|im_end|>",
    ],
    "bert": ["query: ", "[MASK] search: [SEP]", "for"],
    "roberta": ["query: ", "</s>search: "],
    "xlm-roberta": ["query: ", "</s>search:"],
}


@pytest.mark.parametrize("family", PROMPTS)
def test_prompts(family: str, tmp_path: Path) -> None:
    directory = save_encoder(tmp_path, family, pooling="lasttoken" if family == "qwen3" else "mean")
    prompts = {str(i): prompt for i, prompt in enumerate(PROMPTS[family])}
    write_json(directory / "config_sentence_transformers.json", {"prompts": prompts})
    theirs = sentence_transformers.SentenceTransformer(str(directory), device="cpu")
    checkpoint = open_checkpoint(directory)
    assert checkpoint.extras["sentence_transformers"].prompts == prompts
    tokenizer = build_encoder_tokenizer(checkpoint)
    encoder, _ = load_encoder("native", checkpoint, precision="f32", threads=1)
    for name, prompt in prompts.items():
        ours = encoder.encode([EncoderInput(ids) for ids in tokenizer.encode_batch(TEXTS, prompt)])
        expected = theirs.encode(TEXTS, prompt_name=name, show_progress_bar=False)
        np.testing.assert_allclose(ours, expected, atol=2e-5, err_msg=prompt)
