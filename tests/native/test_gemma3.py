"""Gemma 3: which layers have windows, and the same model as a file and as a directory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_decoder_directories import write_directory
from tiny_models import SMALLEST_VOCAB, write_tiny_gemma3

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.errors import CheckpointError

LENGTH = 700  # three pieces of a context, and more than two windows


def ids(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SMALLEST_VOCAB, LENGTH)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(
        write_tiny_gemma3(
            tmp_path_factory.mktemp("model") / "m.gguf",
            window=290,
            layers=7,
            context=1024,
            kind="Q8_0",
            rope_base=1e6,
        )
    )


def test_which_layers_have_one(checkpoint: Checkpoint) -> None:
    plan = describe(checkpoint)
    windows = [operation.window for operation in plan.operations if type(operation).__name__ == "Attention"]
    thetas = [
        (operation.rope or plan.rope).theta
        for operation in plan.operations
        if type(operation).__name__ == "RopeStore"
    ]
    assert windows == [290] * 5 + [0, 290]
    assert thetas == [1e4] * 5 + [1e6, 1e4]
    assert [o.scale for o in plan.operations if type(o).__name__ == "Embed"] == [8.0]


NEWER = {  # as transformers 5 writes it
    "layer_types": [*["sliding_attention"] * 5, "full_attention", "sliding_attention"],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
    },
    "rope_theta": 1.0,
    "rope_local_base_freq": 2.0,
}


@pytest.mark.parametrize("config", [{"sliding_window_pattern": 6}, {}, NEWER], ids=["old", "least", "newer"])
def test_a_directory_is_the_same_model(checkpoint: Checkpoint, tmp_path: Path, make_driver, config) -> None:
    directory = open_checkpoint(write_directory(tmp_path / "d", Path(checkpoint.path), **config))
    ours, expected = (
        make_driver(model, quantization="f32", context_length=1024).logits(ids())
        for model in (directory, checkpoint)
    )
    np.testing.assert_allclose(ours, expected, atol=2e-3 * np.ptp(expected))  # norms lose a last bit


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"layer_types": ["full_attention"]}, "no list of 7 times"),
        ({"layer_types": ["chunked_attention"] * 7}, "no list of 7 times"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"hidden_activation": "gelu"}, "hidden_activation"),
        ({"sliding_window": 0}, "sliding_window"),
        ({"rope_parameters": {"sliding_attention": {"rope_theta": -5.0}}}, "'rope_theta' .* positive number"),
        ({"rope_parameters": {"sliding_attention": {"rope_theta": "1"}}}, "'rope_theta' .* positive number"),
        ({"query_pre_attn_scalar": float("inf")}, "'query_pre_attn_scalar' .* positive number"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 8.0}}, "dynamic"),
    ],
)
def test_what_is_not_computed_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, config, message: str
) -> None:
    directory = write_directory(tmp_path / "d", Path(checkpoint.path), **config)
    with pytest.raises(CheckpointError, match=message):
        describe(open_checkpoint(directory))
