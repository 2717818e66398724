"""What a classifier's files say of its classes."""

from __future__ import annotations

from typing import Any

import pytest

from llm_serving.checkpoints import Checkpoint, read_classes, require_classifier
from llm_serving.errors import CheckpointError


def directory(**config: Any) -> Checkpoint:
    return Checkpoint("/m", "bert", config, {}, format="huggingface")


@pytest.mark.parametrize(
    ("config", "count", "labels", "activation"),
    [
        ({}, 2, ("LABEL_0", "LABEL_1"), "softmax"),
        ({}, 1, ("LABEL_0",), "sigmoid"),
        ({"id2label": {"1": "good", "0": "bad"}}, 2, ("bad", "good"), "softmax"),
        ({"problem_type": "multi_label_classification"}, 2, ("LABEL_0", "LABEL_1"), "sigmoid"),
        ({"problem_type": "single_label_classification"}, 1, ("LABEL_0",), "sigmoid"),
        ({"problem_type": "regression"}, 1, ("LABEL_0",), "identity"),
        ({"problem_type": None, "id2label": None}, 2, ("LABEL_0", "LABEL_1"), "softmax"),
    ],
)
def test_names_and_activation(
    config: dict[str, Any], count: int, labels: tuple[str, ...], activation: str
) -> None:
    classes = read_classes(directory(**config), count)
    assert classes.labels == labels
    assert classes.activation == activation


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"id2label": {"0": "a", "1": "b"}}, "names 2 labels for 3 classes"),
        ({"id2label": {"0": "a", "2": "b", "3": "c"}}, "does not count from 0"),
        ({"id2label": {"first": "a"}}, "does not count from 0"),
        ({"problem_type": "ranking"}, "'ranking'"),
        ({"problem_type": ["regression"]}, "not known"),
    ],
)
def test_what_does_not_fit(config: dict[str, Any], text: str) -> None:
    with pytest.raises(CheckpointError, match=text):
        read_classes(directory(**config), 3)


@pytest.mark.parametrize("architectures", [None, [], ["BertModel"], ["BertForMaskedLM"]])
def test_other_models_are_no_classifiers(architectures: list[str] | None) -> None:
    with pytest.raises(CheckpointError, match="is no classifier"):
        require_classifier(directory(architectures=architectures))
    require_classifier(directory(architectures=["BertForSequenceClassification"]))
