"""Our encoders against transformers and sentence-transformers: same weights, same tokens, same rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the parity suite needs torch; run it with: make parity")
transformers = pytest.importorskip("transformers")

from transformers_encoders import CONFIGS, save_encoder  # noqa: E402

from llm_serving.backends.native_encoder import load  # noqa: E402
from llm_serving.checkpoints import build_encoder_tokenizer, open_checkpoint  # noqa: E402
from llm_serving.embeddings.encoder import EncoderInput  # noqa: E402
from llm_serving.models import ModelCache, find_model, load_catalog, resolve_model  # noqa: E402
from llm_serving.native.disentangled import Positions, rows_of_distances  # noqa: E402

pytestmark = pytest.mark.parity
HERE = Path(__file__).parent


def random_texts(vocab_size: int) -> list[list[int]]:
    rng = np.random.default_rng(5)
    return [rng.integers(5, vocab_size, length).tolist() for length in (1, 2, 16, 17, 60, 100)]


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in CONFIGS),
    ("modernbert", {"hidden_activation": "silu"}),
    ("deberta-v2", {"share_att_key": False, "pos_att_type": ["c2p"]}),
    ("deberta-v2", {"position_buckets": -1, "max_relative_positions": 40, "norm_rel_ebd": "none"}),
]


@pytest.mark.parametrize(("family", "config"), VARIANTS)
def test_mean_of_the_hidden_states(family: str, config: dict[str, Any], tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / family, family, pooling="mean", **config)
    model = transformers.AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    encoder = load(open_checkpoint(directory), "f32", 2)
    texts = random_texts(model.config.vocab_size)
    rows = encoder.encode([EncoderInput(ids) for ids in texts])
    for ids, row in zip(texts, rows, strict=True):
        with torch.no_grad():
            expected = model(torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()
        expected /= np.linalg.norm(expected)
        np.testing.assert_allclose(row / np.linalg.norm(row), expected, atol=2e-5)


@pytest.mark.parametrize(("span", "context"), [(256, 512), (16, 130), (128, 1024)])
def test_distances_share_rows_as_in_transformers(span: int, context: int) -> None:
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    distances = torch.arange(1 - context, context)
    theirs = make_log_bucket_position(distances, span, context).long() + span
    positions = Positions("table", span, True, context, None, 1e-7)
    assert rows_of_distances(positions, context) == theirs.clamp(0, 2 * span - 1).tolist()


@pytest.mark.parametrize("family", CONFIGS)
def test_cross_encoder(family: str, tmp_path: Path) -> None:
    """Two segments where the family knows them; the head included."""
    directory = save_encoder(tmp_path / family, family, labels=1)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        directory, dtype=torch.float32
    ).eval()
    checkpoint = open_checkpoint(directory)
    tokenizer = build_encoder_tokenizer(checkpoint)
    encoder = load(checkpoint, "f32", 1)
    assert encoder.dimensions == 1
    for pair in (("the fox", "a dark forest"), ("who came", "nobody, and then the rain came for a week")):
        ids, second = tokenizer.encode_pair(*pair)
        # transformers reads the row of the last token that is no padding, and Qwen's end of text pads.
        if family == "qwen3":
            ids = [token for token in ids if token != model.config.pad_token_id]
        segments = [0] * second + [1] * (len(ids) - second)
        arguments = {"input_ids": torch.tensor([ids])}
        if family in ("bert", "nomic_bert"):
            arguments["token_type_ids"] = torch.tensor([segments])
        with torch.no_grad():
            expected = model(**arguments).logits[0].numpy()
        ours = encoder.encode([EncoderInput(ids, second)])[0]
        np.testing.assert_allclose(ours, expected, atol=2e-5)


def real_model(name: str) -> Path:
    """The default model, which may be fetched, or another that somebody has fetched."""
    if name == "all-minilm-l6-v2":
        return Path(os.environ.get("LLM_SERVING_TEST_EMBEDDING_MODEL") or resolve_model(name))
    spec = find_model(name)
    path = ModelCache().find(spec) if spec is not None else None
    return path or pytest.skip(f"{name} is not here")


SAYINGS = ("Thank you", "Thank you.", "Thanks.", "Yes.", "No", "Good evening.", "The end.", "Hello!", "I do.")


def varied_texts() -> list[str]:
    """At least 500: sentences, halves of them, paragraphs, words of the English text, and sayings."""
    text = (HERE / "english.txt").read_text()
    paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
    sentences = [s.strip() for part in paragraphs for s in part.replace("\n", " ").split(". ") if s.strip()]
    halves = [s[: len(s) // 2] for s in sentences]
    words = sorted(set(text.split()))[::4]
    return [*paragraphs, *sentences, *halves, *words, *SAYINGS]


@pytest.mark.parametrize("name", [spec.name for spec in load_catalog() if spec.kind == "embedding"])
def test_real_models_against_sentence_transformers(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts, path = varied_texts(), real_model(name)
    assert len(texts) >= 500
    theirs = sentence_transformers.SentenceTransformer(str(path), device="cpu").encode(
        texts, batch_size=32, show_progress_bar=False
    )
    checkpoint = open_checkpoint(path)
    tokenizer = build_encoder_tokenizer(checkpoint)
    cosines, rankings = {}, {}
    for precision in ("f32", "q8"):
        encoder = load(checkpoint, precision, 2)
        inputs = [
            EncoderInput(tokenizer.truncate(ids, encoder.max_tokens)) for ids in tokenizer.encode_batch(texts)
        ]
        ours = encoder.encode(inputs)
        assert np.isfinite(ours).all()
        cosines[precision] = (ours * theirs).sum(1)
        rankings[precision] = (ours[:40] @ ours[40:].T).argmax(1)
    with capsys.disabled():
        print(
            f"\n{name} against sentence-transformers: "
            + "; ".join(
                f"{name}: cosine min {values.min():.6f}, mean {values.mean():.6f}"
                for name, values in cosines.items()
            )
        )
    expected = (theirs[:40] @ theirs[40:].T).argmax(1)
    assert cosines["f32"].min() >= 0.9999
    assert cosines["q8"].min() >= 0.999
    assert (rankings["f32"] == expected).all()
    assert (rankings["q8"] == expected).mean() >= 0.95
