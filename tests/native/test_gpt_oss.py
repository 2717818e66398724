"""gpt-oss: the same model as a file, as a directory of floats and as one of MXFP4; what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_encoders import write_safetensors
from tiny_gpt_oss import write_gpt_oss_directory, write_tiny_gpt_oss
from tiny_models import SMALLEST_VOCAB

from llm_serving.architectures import describe
from llm_serving.backends import choose_engine
from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import Checkpoint, Tensor, dequantize, open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.rope import yarn_factors

IDS = np.random.default_rng(1).integers(0, SMALLEST_VOCAB, 100)
PACKED = {"kind": "F32", "kinds": dict.fromkeys(("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"), "MXFP4")}
EXPERTS = "model.layers.1.mlp.experts."


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_tiny_gpt_oss(tmp_path_factory.mktemp("model") / "m.gguf", kind="F32"))


@pytest.fixture
def packed(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(write_tiny_gpt_oss(tmp_path / "p.gguf", **PACKED))


def directory_of(checkpoint: Checkpoint, to: Path, **config: Any) -> Checkpoint:
    return open_checkpoint(write_gpt_oss_directory(to, Path(checkpoint.path), **config))


def with_keys(checkpoint: Checkpoint, **keys: Any) -> Checkpoint:
    named = {f"gpt-oss.{key}": value for key, value in keys.items()}
    return dataclasses.replace(checkpoint, metadata={**checkpoint.metadata, **named})


def with_tensor(checkpoint: Checkpoint, name: str, values: np.ndarray) -> Checkpoint:
    tensor = Tensor(name, "F32", values.shape, values.astype(np.float32).reshape(-1).view(np.uint8))
    return dataclasses.replace(checkpoint, tensors={**checkpoint.tensors, name: tensor})


@pytest.mark.parametrize("quantization", ["auto", "q4", "q8", "f32"])
@pytest.mark.parametrize("kinds", [{"kind": "F32"}, PACKED], ids=["floats", "mxfp4"])
def test_same_numbers_same_bits(
    tmp_path: Path, make_driver, kinds: dict[str, Any], quantization: str
) -> None:
    gguf = open_checkpoint(write_tiny_gpt_oss(tmp_path / "m.gguf", **kinds))
    directory = directory_of(gguf, tmp_path / "d")
    assert directory.extras["skipped_tensors"] == {}
    ours, expected = (make_driver(one, quantization=quantization).logits(IDS) for one in (directory, gguf))
    np.testing.assert_array_equal(ours, expected)
    assert np.isfinite(expected).all()
    assert np.ptp(expected) > 5


def test_mxfp4_is_the_values_it_stands_for(packed: Checkpoint, tmp_path: Path, make_driver) -> None:
    directory = directory_of(packed, tmp_path / "d")
    plain = {
        name: Tensor(name, "F32", tensor.shape, dequantize(tensor).reshape(-1).view(np.uint8))
        for name, tensor in directory.tensors.items()
    }
    for name, tensor in directory.tensors.items():
        if tensor.kind == "MXFP4":  # floats are stored as inputs x outputs
            values = np.ascontiguousarray(dequantize(tensor).swapaxes(1, 2))
            plain[name] = Tensor(name, "F32", values.shape, values.view(np.uint8).reshape(-1))
    assert {tensor.kind for tensor in directory.tensors.values()} == {"F32", "MXFP4"}
    values = dataclasses.replace(directory, tensors=plain)
    ours, expected = (make_driver(one, quantization="f32").logits(IDS) for one in (directory, values))
    np.testing.assert_array_equal(ours, expected)


def test_in_shards(packed: Checkpoint, tmp_path: Path, make_driver) -> None:
    """Values and their exponents may lie in two files."""
    directory = directory_of(packed, tmp_path / "d")
    expected = make_driver(directory).logits(IDS[:20])
    halves: dict[str, dict[str, np.ndarray]] = {"a.safetensors": {}, "b.safetensors": {}}
    for name, tensor in directory.tensors.items():
        if tensor.scales is None:
            halves["a.safetensors"][name] = dequantize(tensor)
        else:
            shape = (*tensor.shape[:2], -1)
            halves["a.safetensors"][f"{name}_scales"] = tensor.scales.reshape(shape)
            halves["b.safetensors"][f"{name}_blocks"] = tensor.data.reshape(*shape[:2], -1, 16)
    places = {name: file for file, tensors in halves.items() for name in tensors}
    index = tmp_path / "d" / "model.safetensors.index.json"
    for file, tensors in halves.items():
        write_safetensors(tmp_path / "d" / file, tensors)
    index.write_text(str({"weight_map": places}).replace("'", '"'))
    (tmp_path / "d" / "model.safetensors").unlink()
    np.testing.assert_array_equal(make_driver(open_checkpoint(tmp_path / "d")).logits(IDS[:20]), expected)


def test_a_packed_file_is_found_again(packed: Checkpoint, tmp_path: Path) -> None:
    directory = directory_of(packed, tmp_path / "d")
    options = EngineOptions(threads=1, packed_dir=tmp_path / "cache", packed_bytes=1 << 30)
    contents = []
    for _ in range(2):
        runner = build_runner(directory, options)
        contents.append(runner.content)
        runner.close()
    assert contents[0] == contents[1]
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) >= 1


def test_windows_and_rotary_positions(floats: Checkpoint, tmp_path: Path) -> None:
    directory = directory_of(floats, tmp_path / "d")
    plans = [describe(floats), describe(directory)]
    for plan in plans:
        assert [o.window for o in plan.operations if isinstance(o, ops.Attention)] == [32, 0]
        assert {o.rope for o in plan.operations if isinstance(o, ops.RopeStore)} == {None}
    assert plans[0].rope == plans[1].rope
    exact, rounded = (yarn_factors(150000.0, 16, 8.0, 64.0, truncate=truncate) for truncate in (False, True))
    assert plans[0].rope.factors == exact != rounded
    pattern = {"attention.sliding_window_pattern": np.array([False, True])}
    windows = [o.window for o in describe(with_keys(floats, **pattern)).operations if hasattr(o, "window")]
    assert windows == [0, 32]


def test_what_a_config_leaves_out(floats: Checkpoint, tmp_path: Path) -> None:
    """It is as transformers has it: windows of 128, positions scaled by 32."""
    directory = directory_of(floats, tmp_path / "d")
    said = ("rope_scaling", "rope_theta", "sliding_window", "layer_types", "max_position_embeddings")
    silent = {key: value for key, value in directory.metadata.items() if key not in said}
    plan = describe(dataclasses.replace(directory, metadata=silent))
    assert [o.window for o in plan.operations if isinstance(o, ops.Attention)] == [128, 0]
    assert plan.rope.theta == 150000.0
    assert plan.rope.factors == yarn_factors(150000.0, 16, 32.0, 4096.0, truncate=False)
    assert plan.max_context == 131072
    gates = {(o.limit, o.slope) for o in plan.operations if isinstance(o, ops.Gated)}
    assert gates == {(7.0, 1.702)}


def test_a_model_without_biases_of_attention(floats: Checkpoint, tmp_path: Path, make_driver) -> None:
    """Files leave them out; directories say so, too."""
    tensors = {
        name: tensor
        for name, tensor in floats.tensors.items()
        if not (".attn_" in name and name.endswith(".bias"))
    }
    without = dataclasses.replace(floats, tensors=tensors)
    directory = directory_of(floats, tmp_path / "d", attention_bias=False)
    ours = make_driver(without).logits(IDS[:30])
    np.testing.assert_array_equal(ours, make_driver(directory).logits(IDS[:30]))
    assert np.abs(ours - make_driver(floats).logits(IDS[:30])).max() > 0.1


@pytest.mark.parametrize("change", ["sinks", "limit", "slope", "biases"])
def test_every_part_is_felt(floats: Checkpoint, tmp_path: Path, make_driver, change: str) -> None:
    directory = directory_of(floats, tmp_path / "d")
    expected = make_driver(directory).logits(IDS[:40])
    changed = {
        "sinks": lambda: with_tensor(directory, "model.layers.0.self_attn.sinks", np.full(4, -30.0)),
        "limit": lambda: directory_of(floats, tmp_path / "e", swiglu_limit=100.0),
        "slope": lambda: directory_of(floats, tmp_path / "e", swiglu_alpha=1.0),
        "biases": lambda: with_tensor(directory, f"{EXPERTS}down_proj_bias", np.zeros((6, 64))),
    }[change]()
    assert np.abs(make_driver(changed).logits(IDS[:40]) - expected).max() > 0.05


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, "'quantization_config' .* 'fp8'"),
        ({"quantization_config": "fp8"}, "'quantization_config' is no object"),
        ({"attention_bias": 3}, "'attention_bias'"),
        ({"hidden_act": "gelu"}, "'hidden_act'"),
        ({"swiglu_limit": -7.0}, "'swiglu_limit' .* positive number"),
        ({"swiglu_limit": 1e30}, "'swiglu_limit' .* no model has that"),
        ({"swiglu_alpha": "1"}, "'swiglu_alpha' .* positive number"),
        ({"sliding_window": None}, "'sliding_window' .* positive integer"),
        ({"layer_types": ["full_attention"]}, "'layer_types' .* no list of 2 times"),
        ({"num_experts_per_tok": 7}, "uses 7 of 6 experts"),
        ({"num_local_experts": 5}, "has 6 rows where there are 5 experts"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "truncate": "no"}},
            "'truncate' .* true or false",
        ),
        ({"intermediate_size": 64}, "gate_up_proj.* has 192 rows where the model's header means 128"),
    ],
)
def test_what_is_not_computed_is_refused(
    floats: Checkpoint, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        build_runner(directory_of(floats, tmp_path / "d", **config), EngineOptions(threads=1)).close()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("model.layers.0.self_attn.sinks", np.zeros(3), "has 3 values where 4 are needed"),
        (f"{EXPERTS}gate_up_proj_bias", np.zeros((6, 190)), "has 190 values where 192 are needed"),
        (f"{EXPERTS}gate_up_proj_bias", np.zeros(()), r"of shape \(\) is not 6 matrices"),
        (f"{EXPERTS}down_proj_bias", np.zeros(64), r"of shape \(64,\) is not 6 matrices"),
        (f"{EXPERTS}down_proj", np.zeros((5, 96, 64)), "is not 6 matrices"),
        (f"{EXPERTS}down_proj", np.zeros((6, 64, 64)), "64 columns where 96 are needed"),
        ("model.layers.1.mlp.router.bias", np.zeros(7), "has 7 values where 6 are needed"),
    ],
)
def test_tensors_of_other_sizes(
    floats: Checkpoint, tmp_path: Path, name: str, values: np.ndarray, message: str
) -> None:
    odd = with_tensor(directory_of(floats, tmp_path / "d"), name, values)
    with pytest.raises(CheckpointError, match=message):
        build_runner(odd, EngineOptions(threads=1)).close()


@pytest.mark.parametrize(
    "lacking", ["model.layers.0.self_attn.sinks", f"{EXPERTS}down_proj_bias", f"{EXPERTS}gate_up_proj"]
)
def test_tensors_that_are_not_there(floats: Checkpoint, tmp_path: Path, lacking: str) -> None:
    directory = directory_of(floats, tmp_path / "d")
    tensors = {name: tensor for name, tensor in directory.tensors.items() if name != lacking}
    with pytest.raises(CheckpointError, match=f"no tensor '{lacking}'"):
        build_runner(dataclasses.replace(directory, tensors=tensors), EngineOptions(threads=1)).close()


def broken(change: Callable[[dict[str, np.ndarray]], Any]) -> dict[str, np.ndarray]:
    name = f"{EXPERTS}down_proj"
    tensors = {
        f"{name}_blocks": np.zeros((6, 64, 3, 16), np.uint8),
        f"{name}_scales": np.zeros((6, 64, 3), np.uint8),
    }
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (broken(lambda t: t.pop(f"{EXPERTS}down_proj_scales")), "no '.*down_proj_scales' of bytes"),
        (
            broken(lambda t: t.update({f"{EXPERTS}down_proj_scales": np.zeros((6, 64, 2), np.uint8)})),
            "not experts' matrices",
        ),
        (
            broken(lambda t: t.update({f"{EXPERTS}down_proj_blocks": np.zeros((6, 64, 48), np.uint8)})),
            "not experts' matrices",
        ),
        (
            broken(lambda t: t.update({f"{EXPERTS}down_proj_blocks": np.zeros((6, 64, 0, 16), np.uint8)})),
            "not experts' matrices",
        ),
        (
            broken(lambda t: t.update({f"{EXPERTS}down_proj_scales": np.zeros((6, 64, 3), np.float32)})),
            "no '.*down_proj_scales' of bytes",
        ),
    ],
)
def test_damaged_mxfp4(tmp_path: Path, tensors: dict[str, np.ndarray], message: str) -> None:
    write_safetensors(tmp_path / "model.safetensors", tensors)
    (tmp_path / "config.json").write_text('{"model_type": "gpt_oss"}')
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


def test_it_goes_to_the_native_engine(floats: Checkpoint, tmp_path: Path) -> None:
    directory = write_gpt_oss_directory(tmp_path / "d", Path(floats.path))
    for path, family in ((directory, "gpt_oss"), (Path(floats.path), "gpt-oss")):
        choice = choose_engine("auto", "auto", path)
        assert choice.name == "native"
        assert open_checkpoint(path).architecture == family
