"""A decoder's directory of safetensors gives the bits of a GGUF file with the same numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_decoder_directories import write_directory
from tiny_models import (
    IM_END,
    SMALLEST_VOCAB,
    write_tiny_ernie,
    write_tiny_glm4,
    write_tiny_granite,
    write_tiny_hunyuan,
    write_tiny_llama,
    write_tiny_mixtral,
    write_tiny_olmo2,
    write_tiny_olmo3,
    write_tiny_olmoe,
    write_tiny_phi3,
    write_tiny_qwen2,
    write_tiny_qwen3,
    write_tiny_qwen3_moe,
    write_tiny_smollm3,
)

from llm_serving.architectures import describe
from llm_serving.backends import choose_engine
from llm_serving.chat.template import ChatTemplate
from llm_serving.checkpoints import Tensor, build_tokenizer, open_checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.rope import longrope_magnitude

WRITERS = {
    "llama": write_tiny_llama,
    "qwen2": write_tiny_qwen2,
    "qwen3": write_tiny_qwen3,
    "mixtral": write_tiny_mixtral,
    "qwen3_moe": write_tiny_qwen3_moe,
    "ernie4_5": write_tiny_ernie,
    "glm4": write_tiny_glm4,
    "granite": write_tiny_granite,
    "hunyuan": write_tiny_hunyuan,
    "olmo2": write_tiny_olmo2,
    "olmo3": write_tiny_olmo3,
    "olmoe": write_tiny_olmoe,
    "phi3": write_tiny_phi3,
    "smollm3": write_tiny_smollm3,
}
LONG = {
    "type": "longrope",
    "short_factor": [1.0 + i / 8 for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
}
LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
NEAR = {"original_max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def ids(count: int) -> list[int]:
    numbers: list[int] = np.random.default_rng(2).integers(0, SMALLEST_VOCAB, count).tolist()
    return numbers


@pytest.mark.parametrize("quantization", ["auto", "q4", "q8", "f32"])
@pytest.mark.parametrize("family", WRITERS)
def test_same_numbers_same_bits(tmp_path: Path, make_driver, family: str, quantization: str) -> None:
    gguf = WRITERS[family](tmp_path / "m.gguf", kind="F32", tied=family == "qwen2")
    directory = write_directory(tmp_path / "d", gguf)
    ours, expected = (
        make_driver(open_checkpoint(path), quantization=quantization).logits(ids(40))
        for path in (directory, gguf)
    )
    np.testing.assert_array_equal(ours, expected)
    assert np.ptp(expected) > 5


def test_rotary_scaling_of_llama_3_is_computed(tmp_path: Path, make_driver) -> None:
    """GGUF files hold the divisors; here they follow from the formula of Llama 3.1."""
    frequencies = 500000.0 ** (-np.arange(0, 16, 2) / 16)
    wavelengths = 2 * np.pi / frequencies
    mix = np.clip((32 / wavelengths - 1.0) / (4.0 - 1.0), 0, 1)
    factors = tuple(1 / ((1 - mix) / 8.0 + mix))
    gguf = write_tiny_llama(tmp_path / "m.gguf", kind="F32", rope_base=500000.0, rope_factors=factors)
    old = write_directory(tmp_path / "old", gguf, rope_scaling=LLAMA_3)
    new = write_directory(
        tmp_path / "new", gguf, rope_theta=1.0, rope_parameters={**LLAMA_3, "rope_theta": 500000.0}
    )
    expected = make_driver(open_checkpoint(gguf)).logits(ids(40))
    for directory in (old, new):
        ours = make_driver(open_checkpoint(directory)).logits(ids(40))
        np.testing.assert_allclose(ours, expected, atol=1e-3 * np.ptp(expected))
    plain = write_directory(tmp_path / "plain", gguf)
    assert np.abs(make_driver(open_checkpoint(plain)).logits(ids(40)) - expected).max() > 0.1


def test_yarn_is_the_same_in_both(tmp_path: Path, make_driver) -> None:
    """What it is, `make parity` compares with transformers."""
    plain = open_checkpoint(write_tiny_qwen3(tmp_path / "m.gguf", kind="F32"))
    keys = {"type": "yarn", "factor": 4.0, "original_context_length": 64}
    scaling = {f"qwen3.rope.scaling.{key}": value for key, value in keys.items()}
    gguf = dataclasses.replace(plain, metadata={**plain.metadata, **scaling})
    directory = open_checkpoint(write_directory(tmp_path / "d", Path(plain.path), rope_scaling=YARN))
    ours, expected, unscaled = (make_driver(each).logits(ids(40)) for each in (directory, gguf, plain))
    np.testing.assert_array_equal(ours, expected)
    assert np.abs(ours - unscaled).max() > 0.1


def test_granite_of_experts_is_mixtral_with_scales(tmp_path: Path, make_driver) -> None:
    """Where all scales are those of Mixtral, bits are, too; others, `make parity` compares."""
    mixtral = open_checkpoint(write_tiny_mixtral(tmp_path / "m.gguf"))
    keys = {key.replace("llama.", "granitemoe."): value for key, value in mixtral.metadata.items()}

    def logits(**scales: float) -> np.ndarray:
        named = {f"granitemoe.{key}": value for key, value in scales.items()}
        granite = dataclasses.replace(mixtral, architecture="granitemoe", metadata={**keys, **named})
        return make_driver(granite).logits(ids(40))

    expected = make_driver(mixtral).logits(ids(40))
    np.testing.assert_array_equal(logits(), expected)
    np.testing.assert_allclose(logits(logit_scale=4.0), expected / 4, rtol=0.02, atol=0.02)
    assert np.abs(logits(residual_scale=0.5) - expected).max() > 0.1


def test_longrope_is_the_same_in_both(tmp_path: Path, make_driver) -> None:
    """What it is, `make parity` compares with transformers."""
    plain = open_checkpoint(write_tiny_phi3(tmp_path / "m.gguf", kind="F32"))
    factors = {
        "rope_factors_short.weight": LONG["short_factor"],
        "rope_factors_long.weight": LONG["long_factor"],
    }
    tensors = {
        name: Tensor(name, "F32", (8,), np.array(values, np.float32).view(np.uint8))
        for name, values in factors.items()
    }
    keys = {"attn_factor": longrope_magnitude(4.0, 64.0), "original_context_length": 64}
    scaling = {f"phi3.rope.scaling.{key}": value for key, value in keys.items()}
    gguf = dataclasses.replace(
        plain, metadata={**plain.metadata, **scaling}, tensors={**plain.tensors, **tensors}
    )
    config = {"rope_scaling": LONG, "original_max_position_embeddings": 64}
    directory = open_checkpoint(write_directory(tmp_path / "d", Path(plain.path), **config))
    seen = []
    for context in (64, 256):
        ours, expected = (
            make_driver(each, context_length=context).logits(ids(40)) for each in (directory, gguf)
        )
        np.testing.assert_array_equal(ours, expected)
        seen.append(ours)
    assert np.abs(seen[0] - seen[1]).max() > 0.1


@pytest.mark.parametrize(
    "odd",
    [{"factor": 1e308}, {"factor": 1e-300}, {"beta_fast": 1e308}, {"beta_fast": 1e-308, "beta_slow": 1e308}],
)
def test_odd_numbers_of_yarn_are_computed(tmp_path: Path, odd: dict[str, float]) -> None:
    gguf = write_tiny_qwen3(tmp_path / "m.gguf", kind="F32")
    directory = write_directory(tmp_path / "d", gguf, rope_scaling={**YARN, **odd})
    factors = np.array(describe(open_checkpoint(directory)).rope.factors)
    assert np.isfinite(factors).all()
    assert (factors > 0).all()


def test_the_window_of_mistral(tmp_path: Path, make_driver) -> None:
    gguf = write_tiny_llama(tmp_path / "m.gguf", kind="F32")
    expected = make_driver(open_checkpoint(gguf)).logits(ids(40))
    for window in (16, 40, 4096, None):
        directory = write_directory(tmp_path / str(window), gguf, model_type="mistral", sliding_window=window)
        checkpoint = open_checkpoint(directory)
        same = (make_driver(checkpoint).logits(ids(40)) == expected).all(axis=1)
        assert describe(checkpoint).max_context == 256
        assert np.flatnonzero(~same).tolist() == (list(range(16, 40)) if window == 16 else [])


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        ("llama", {"attention_bias": True}, "'attention_bias'"),
        ("llama", {"mlp_bias": True}, "'mlp_bias'"),
        ("llama", {"hidden_act": "gelu"}, "'hidden_act'"),
        ("llama", {"num_attention_heads": 3}, "3 query heads over 2"),
        ("llama", {"intermediate_size": 48}, "feed-forward size .* multiple of 32"),
        ("llama", {"hidden_size": "64"}, "'hidden_size' .* positive integer"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "'dynamic'"),
        ("llama", {"rope_scaling": {**YARN, "mscale": "1"}}, "'mscale' .* positive number"),
        ("llama", {"rope_scaling": YARN, "rope_theta": 1.0}, "rotary base .* is 1; yarn needs more"),
        ("llama", {"rope_scaling": {**YARN, "beta_fast": "32"}}, "'beta_fast' .* positive number"),
        ("llama", {"rope_scaling": {**YARN, "factor": None}}, "'factor' .* positive number"),
        ("llama", {"rope_scaling": [1]}, "no object"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": -1}}, "'factor' .* positive number"),
        ("llama", {"rope_scaling": {**LLAMA_3, "high_freq_factor": 0.5}}, "out of order"),
        ("llama", {"rope_theta": float("inf")}, "'rope_theta'"),
        ("llama", {"partial_rotary_factor": 0.1}, "Rotating 1 of 16"),
        ("llama", {"model_type": "mistral", "sliding_window": -1}, "'sliding_window'"),
        ("qwen2", {"use_sliding_window": True}, "'use_sliding_window'"),
        ("qwen3", {"attention_bias": True}, "'attention_bias'"),
        ("phi3", {"rope_scaling": {**LONG, "long_factor": [1.0]}}, "'original_max_position_embeddings'"),
        ("phi3", {"rope_scaling": {**LONG, **NEAR, "long_factor": [1.0]}}, "'long_factor' .* list of 8"),
        (
            "phi3",
            {"rope_scaling": {**LONG, **NEAR, "short_factor": [-1.0] * 8}},
            "'short_factor' .* list",
        ),
        ("phi3", {"sliding_window": 0}, "'sliding_window'"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "'no_rope_layers' .* list of 4"),
        ("smollm3", {"no_rope_layer_interval": 0}, "'no_rope_layer_interval'"),
        ("smollm3", {"use_sliding_window": True}, "'use_sliding_window'"),
        ("granite", {"residual_multiplier": 0}, "'residual_multiplier' .* positive number"),
        ("granite", {"logits_scaling": "8"}, "'logits_scaling' .* positive number"),
        ("granite", {"residual_multiplier": 1e-300}, "scale of 1e-300"),
        ("granite", {"residual_multiplier": 1e300}, "scale of 1e.300"),
        ("phi3", {"rope_scaling": {**LONG, **NEAR, "short_factor": [1e-300] * 8}}, "'short_factor' .* list"),
        ("ernie4_5", {"use_bias": True}, "'use_bias'"),
        ("olmo2", {"attention_bias": True}, "'attention_bias'"),
        ("olmo3", {"sliding_window": None}, "'sliding_window' .* positive integer"),
        ("olmo3", {"layer_types": ["full_attention"]}, "no list of 4 times"),
        ("olmoe", {"clip_qkv": 8.0}, "'clip_qkv'"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, "'mlp_only_layers'"),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "'decoder_sparse_step'"),
        ("qwen3_moe", {"num_experts_per_tok": 9}, "uses 9 of 8 experts"),
        ("mixtral", {"num_local_experts": 0}, "'num_local_experts' .* positive integer"),
    ],
)
def test_what_is_not_computed_is_refused(
    tmp_path: Path, family: str, config: dict[str, Any], message: str
) -> None:
    directory = write_directory(tmp_path / "d", WRITERS[family](tmp_path / "m.gguf", kind="F32"), **config)
    with pytest.raises(CheckpointError, match=message):
        describe(open_checkpoint(directory))


def test_a_head_that_is_not_there(tmp_path: Path, make_driver) -> None:
    gguf = write_tiny_llama(tmp_path / "m.gguf", kind="F32")
    directory = write_directory(tmp_path / "d", gguf, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"no tensor 'lm_head\.weight'"):
        make_driver(open_checkpoint(directory))


def test_the_tokenizer_is_that_of_the_file(tmp_path: Path) -> None:
    gguf = write_tiny_llama(tmp_path / "m.gguf", kind="F32", vocab=SMALLEST_VOCAB + 34)
    directory = write_directory(tmp_path / "d", gguf)
    checkpoint = open_checkpoint(gguf)
    theirs, ours = build_tokenizer(checkpoint), build_tokenizer(open_checkpoint(directory))
    texts = ["Hello world, hi!", " the end<|im_end|>", "grüße 中文 🤖\n", ""]
    assert [ours.encode(text) for text in texts] == [theirs.encode(text) for text in texts]
    message = {"role": "user", "content": ours.guard(texts[1])}
    template = ChatTemplate(ours.chat_template or "", bos_token=ours.bos_token, eos_token=ours.eos_token)
    prompt = template.render([message])
    assert ours.encode_prompt(prompt) == theirs.encode_prompt(
        ChatTemplate(checkpoint.chat_template or "").render([message])
    )
    assert ours.token_bytes[:SMALLEST_VOCAB] == theirs.token_bytes[:SMALLEST_VOCAB]
    assert (ours.bos_token, ours.eos_token, ours.adds_bos) == ("<|im_start|>", "<|im_end|>", False)
    assert ours.eos_ids == {0, IM_END}
    (directory / "chat_template.jinja").write_text("own {{ messages }}")
    assert build_tokenizer(open_checkpoint(directory)).chat_template == "own {{ messages }}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"{", "no tokenizer"),
        ("tokenizer.json", b"[]", "no tokenizer"),
        ("tokenizer_config.json", b"{", "no JSON"),
        ("generation_config.json", b'{"eos_token_id": "x"}', "'eos_token_id'"),
        ("generation_config.json", b'{"eos_token_id": [0, -1]}', "'eos_token_id'"),
        ("generation_config.json", b'{"eos_token_id": true}', "'eos_token_id'"),
        ("chat_template.jinja", b"\xff", "UTF-8"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    directory = write_directory(tmp_path / "d", write_tiny_llama(tmp_path / "m.gguf", kind="F32"))
    (directory / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        build_tokenizer(open_checkpoint(directory))
    assert name in str(caught.value)


def test_it_goes_to_the_native_engine(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "d", write_tiny_qwen3(tmp_path / "m.gguf", kind="F32"))
    choice = choose_engine("auto", "auto", directory)
    assert (choice.name, choice.reason) == ("native", "it runs the family 'qwen3'")
    (directory / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json.*save_pretrained"):
        choose_engine("auto", "auto", directory)
