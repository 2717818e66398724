"""Files of sentence-transformers that are damaged, hostile or ask for what is not supported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_encoders import write_json, write_modules

from llm_serving.checkpoints.sentence_transformers import read_sentence_transformers
from llm_serving.errors import CheckpointError

PREFIX = "sentence_transformers.models."


def module(kind: str, path: str = "") -> dict[str, str]:
    return {"type": PREFIX + kind, "path": path}


TRANSFORMER = module("Transformer")
POOLING = module("Pooling", "1_Pooling")
NORMALIZE = module("Normalize", "2_Normalize")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_modules(tmp_path, 3, "mean")
    assert read_sentence_transformers(tmp_path) is not None
    return tmp_path


def test_without_modules_there_is_nothing(tmp_path: Path) -> None:
    assert read_sentence_transformers(tmp_path) is None


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({}, "not a JSON list"),
        ([], "must be a 'Transformer'"),
        (["x"], "an object with the texts 'type' and 'path'"),
        ([{"type": PREFIX + "Transformer"}], "an object with the texts"),
        ([POOLING], "must be a 'Transformer'"),
        ([TRANSFORMER] * 17, "up to 15 more"),
        ([TRANSFORMER, NORMALIZE], "module 'Normalize' at this place"),
        ([TRANSFORMER, module("Dense", "1_Dense")], "module 'Dense' at this place"),
        ([TRANSFORMER, POOLING, POOLING], "module 'Pooling' at this place"),
        ([TRANSFORMER, POOLING, NORMALIZE, module("Dense", "3")], "module 'Dense' at this place"),
        ([TRANSFORMER, module("SpladePooling", "1_Pooling")], "module 'SpladePooling'.* is not supported"),
        ([module("Transformer", "../up")], "'../up' leaves the model's directory"),
        ([module("Transformer", "/etc")], "leaves the model's directory"),
        ([module("Transformer", "a/../../b")], "leaves the model's directory"),
        ([module("Transformer", "a\0b")], "leaves the model's directory"),
        ([TRANSFORMER, module("Pooling", "nowhere")], "nowhere/config.json: cannot be read"),
    ],
)
def test_modules_that_are_wrong(model: Path, modules: Any, message: str) -> None:
    write_json(model / "modules.json", modules)
    with pytest.raises(CheckpointError, match=message):
        read_sentence_transformers(model)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], "not a JSON object"),
        ({"pooling_mode_mean_tokens": "yes"}, "'pooling_mode_mean_tokens' is neither true nor false"),
        ({"pooling_mode_mean_tokens": False}, "no pooling mode is switched on"),
        (
            {"pooling_mode_mean_tokens": True, "pooling_mode_median": True},
            "'pooling_mode_median' is not",
        ),
        ({"pooling_mode": "median"}, "'pooling_mode' is 'median'"),
        ({"pooling_mode": []}, "no pooling mode"),
        ({"word_embedding_dimension": "3"}, "'word_embedding_dimension' is not a positive number"),
        ({"word_embedding_dimension": True}, "'word_embedding_dimension' is not a positive number"),
        ({"word_embedding_dimension": 2**40}, "'word_embedding_dimension' is not a positive number"),
        ({"include_prompt": None}, "'include_prompt' is neither"),
    ],
)
def test_pooling_that_is_wrong(model: Path, config: Any, message: str) -> None:
    write_json(model / "1_Pooling/config.json", config)
    with pytest.raises(CheckpointError, match=rf"1_Pooling/config\.json: .*{message}"):
        read_sentence_transformers(model)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("sentence_bert_config.json", {"max_seq_length": 0}, "'max_seq_length' is not a positive number"),
        ("sentence_bert_config.json", {"do_lower_case": 1}, "'do_lower_case' is neither"),
        ("config_sentence_transformers.json", {"prompts": ["x"]}, "'prompts' is not an object of texts"),
        ("config_sentence_transformers.json", {"prompts": {"q": 1}}, "'prompts' is not an object of texts"),
        ("config_sentence_transformers.json", {"default_prompt_name": "q"}, "'q', which is no prompt"),
        ("config_sentence_transformers.json", {"default_prompt_name": []}, "which is no prompt"),
        (
            "config_sentence_transformers.json",
            {"similarity_fn_name": 4},
            "'similarity_fn_name' is not",
        ),
        ("config_sentence_transformers.json", {"activation_fn": ["x"]}, "'activation_fn' is not a text"),
    ],
)
def test_settings_that_are_wrong(model: Path, name: str, config: Any, message: str) -> None:
    write_json(model / name, config)
    with pytest.raises(CheckpointError, match=rf"{name}: .*{message}"):
        read_sentence_transformers(model)


@pytest.mark.parametrize(
    ("config", "answers"), [({"true_token_id": 7, "false_token_id": 5}, (7, 5)), ({"true_token_id": 7}, (7,))]
)
def test_tokens_that_a_language_model_answers_with(
    model: Path, config: dict[str, int], answers: tuple[int, ...]
) -> None:
    write_json(model / "modules.json", [TRANSFORMER, module("LogitScore", "1_LogitScore")])
    write_json(model / "1_LogitScore/config.json", config)
    settings = read_sentence_transformers(model)
    assert settings is not None
    assert settings.answers == answers


@pytest.mark.parametrize("config", [{}, {"true_token_id": "7"}, {"true_token_id": 7, "false_token_id": -1}])
def test_answers_that_are_no_tokens(model: Path, config: dict[str, object]) -> None:
    write_json(model / "modules.json", [TRANSFORMER, module("LogitScore", "1_LogitScore")])
    write_json(model / "1_LogitScore/config.json", config)
    with pytest.raises(CheckpointError, match="must be ids of tokens"):
        read_sentence_transformers(model)
