"""Language models that rank by their answer, as Qwen3-Reranker does: `/rerank` and `/score`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the parity suite needs torch; run it with: make parity")
transformers = pytest.importorskip("transformers")
sentence_transformers = pytest.importorskip("sentence_transformers")

import gguf  # noqa: E402
from gguf_encoders import write_gguf_encoder  # noqa: E402
from test_reranker_parity import DOCUMENTS, QUERY, scores_of  # noqa: E402
from transformers_encoders import save_encoder  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.anyio, pytest.mark.filterwarnings("default")]

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
    'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
# In words of sentence-transformers' roles; another order of sentences than ours has.
TEMPLATE = (
    "{%- set given = messages | selectattr('role', 'eq', 'system') | map(attribute='content') | first"
    " | default('Say whether it fits') -%}"
    "<|im_start|>user\n{{ given }}: {{ messages | selectattr('role', 'eq', 'query')"
    " | map(attribute='content') | first }}?\n"
    "{{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}"
    "<|im_end|>\n{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PAIRS = [(QUERY, document) for document in DOCUMENTS]


def save(directory: Path, **config: Any) -> Path:
    return save_encoder(directory, "qwen3", answers=True, max_position_embeddings=512, **config)


def of_the_model_card(directory: Path, *, log_odds: bool = False) -> np.ndarray:
    """P(yes), as Qwen3-Reranker's own example computes it, or its log odds."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def ids_of(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    out = []
    for query, document in PAIRS:
        body = f"<Instruct>: {INSTRUCTION}\n<Query>: {query}\n<Document>: {document}"
        with torch.no_grad():
            logits = model(torch.tensor([ids_of(PREFIX) + ids_of(body) + ids_of(SUFFIX)])).logits[0, -1]
        out.append(
            (logits[yes] - logits[no]).item()
            if log_odds
            else torch.log_softmax(torch.stack([logits[no], logits[yes]]), 0)[1].exp().item()
        )
    return np.array(out)


@pytest.mark.parametrize("engine", ["native", "transformers"])
@pytest.mark.parametrize("tied", [False, True])
async def test_a_directory_as_its_model_card_has_it(tied: bool, engine: str, tmp_path: Path) -> None:
    """Tied, all would be near one, so its activation is none."""
    config = {"activation_fn": "torch.nn.modules.linear.Identity"} if tied else {}
    directory = save(tmp_path / "m", tie_word_embeddings=tied, sentence_transformers=config)
    expected = of_the_model_card(directory, log_odds=tied)
    assert np.ptp(expected) > 0.05
    scores, order = await scores_of(directory, engine)
    np.testing.assert_allclose(scores, expected, atol=2e-5)
    assert order == np.argsort(-expected).tolist()


async def test_a_gguf_file(tmp_path: Path) -> None:
    directory = save(tmp_path / "m", tie_word_embeddings=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    answers = [tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no")]
    rank = gguf.PoolingType.RANK
    path = write_gguf_encoder(tmp_path / "m.gguf", directory, tokenizer, pooling=rank, answers=answers)
    scores, _ = await scores_of(path)
    np.testing.assert_allclose(scores, of_the_model_card(directory), atol=2e-5)


async def test_a_conversion_to_a_classifier(tmp_path: Path) -> None:
    """Its chat template is still the one for chats, which is no reason to read pairs by it."""
    directory = save(tmp_path / "m", tie_word_embeddings=False)
    language_model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1)
    with torch.no_grad():
        weight = language_model.lm_head.weight
        classifier.score.weight.copy_((weight[yes] - weight[no])[None])
    classifier.save_pretrained(tmp_path / "classifier")
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "classifier")
    scores, _ = await scores_of(tmp_path / "classifier")
    np.testing.assert_allclose(scores, of_the_model_card(directory), atol=2e-5)


@pytest.mark.parametrize("instruction", [None, "Find the weather"])
@pytest.mark.parametrize("opens_answer", [False, True])
async def test_a_chat_template_for_pairs(opens_answer: bool, instruction: str | None, tmp_path: Path) -> None:
    """Saved by sentence-transformers: tokens in `LogitScore`, a score that is the difference of logits."""
    directory = save(tmp_path / "m", tie_word_embeddings=False)
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    theirs = sentence_transformers.CrossEncoder(
        str(directory),
        device="cpu",
        activation_fn=torch.nn.Identity(),
        prompts={"web": instruction} if instruction else None,
        default_prompt_name="web" if instruction else None,
    )
    theirs.save_pretrained(str(tmp_path / "saved"))
    settings = tmp_path / "saved/sentence_bert_config.json"
    if opens_answer:
        options = {"processing_kwargs": {"chat_template": {"add_generation_prompt": True}}}
        settings.write_text(json.dumps({**json.loads(settings.read_text()), **options}))
        theirs = sentence_transformers.CrossEncoder(str(tmp_path / "saved"), device="cpu")
    assert (tmp_path / "saved/1_LogitScore/config.json").is_file()
    expected = theirs.predict(PAIRS, show_progress_bar=False)
    scores, order = await scores_of(tmp_path / "saved")
    np.testing.assert_allclose(scores, expected, atol=5e-5)
    assert order == np.argsort(-expected).tolist()
