"""Which activation makes scores of a cross-encoder's logits, by the keys of its files."""

from __future__ import annotations

from typing import Any

import pytest

from llm_serving.checkpoints import Checkpoint, SentenceTransformers, read_score_activation
from llm_serving.errors import CheckpointError

IDENTITY, TANH = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Tanh"


def read(config: dict[str, Any], saved: str | None = None) -> str:
    extras = {"sentence_transformers": SentenceTransformers(None, activation=saved)} if saved else {}
    return read_score_activation(Checkpoint("m", "bert", config, {}, extras=extras, format="huggingface"))


@pytest.mark.parametrize(
    ("config", "saved", "expected"),
    [
        ({}, None, "sigmoid"),
        ({"sentence_transformers": {"activation_fn": IDENTITY}}, None, "identity"),
        ({"sentence_transformers": {"version": "5"}}, None, "sigmoid"),
        ({"sentence_transformers": "x", "sbert_ce_default_activation_function": TANH}, None, "tanh"),
        ({"sbert_ce_default_activation_function": IDENTITY}, None, "identity"),
        (
            {
                "sentence_transformers": {"activation_fn": None},
                "sbert_ce_default_activation_function": TANH,
            },
            None,
            "sigmoid",
        ),
        ({"sentence_transformers": {"activation_fn": IDENTITY}}, TANH, "tanh"),
        ({"sentence_transformers": {"activation_fn": IDENTITY}}, "own.Code", "identity"),
        ({"sbert_ce_default_activation_function": "own.Code"}, None, "sigmoid"),
        ({"sbert_ce_default_activation_function": ["x"]}, None, "sigmoid"),
    ],
)
def test_the_first_name_of_torch_counts(config: dict[str, Any], saved: str | None, expected: str) -> None:
    assert read(config, saved) == expected


def test_an_activation_that_is_not_computed_is_refused() -> None:
    config = {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Softplus"}}
    with pytest.raises(CheckpointError, match="makes scores with '.*Softplus'; Sigmoid, Identity, Tanh are"):
        read(config)
