"""Which engine runs what, and why: by name, by device, by what is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_encoders import write_tiny_bert
from tiny_models import write_tiny_llama

from llm_serving.architectures import describe
from llm_serving.backends import choose_encoder_engine, choose_engine, transformers_backend, vllm_backend
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.errors import CheckpointError, InvalidRequest, MissingExtra


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "tiny.gguf")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Of a family that the native engine does not know."""
    (tmp_path / "config.json").write_text('{"model_type": "xlnet"}')
    (tmp_path / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return tmp_path


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_backend, "_missing", list)


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_backend, "_missing", lambda: ["torch", "transformers"])


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_on_a_cpu_the_native_engine_comes_first(gguf: Path, device: str, installed: None) -> None:
    choice = choose_engine("auto", device, gguf)
    assert choice.name == "native"
    assert "'llama'" in choice.reason
    assert choice.checkpoint is not None
    assert choice.checkpoint.architecture == "llama"


@pytest.mark.parametrize("device", ["cuda:1", "cuda", "mps"])
def test_another_device_means_transformers(gguf: Path, device: str, installed: None) -> None:
    choice = choose_engine("auto", device, gguf)
    assert (choice.name, choice.checkpoint) == ("transformers", None)
    assert device in choice.reason


def test_what_the_native_engine_does_not_run_goes_to_transformers(directory: Path, installed: None) -> None:
    choice = choose_engine("auto", "cpu", directory)
    assert choice.name == "transformers"
    assert "native engine does not run" in choice.reason


def test_a_damaged_directory_goes_to_transformers_too(directory: Path, installed: None) -> None:
    (directory / "config.json").write_text("{")
    assert choose_engine("auto", "auto", directory).name == "transformers"


@pytest.mark.parametrize("engine", ["native", "transformers"])
def test_a_named_engine_is_taken(gguf: Path, engine: str, installed: None) -> None:
    choice = choose_engine(engine, "cpu", gguf)
    assert (choice.name, choice.reason) == (engine, f"--engine {engine} was asked for")


def test_without_the_extra_both_ways_out_are_named(directory: Path, not_installed: None) -> None:
    with pytest.raises(CheckpointError) as caught:
        choose_engine("auto", "cpu", directory)
    assert "pip install 'llm-serving[transformers]'" in str(caught.value)
    assert "GGUF" in str(caught.value)


def test_an_unknown_family_in_a_gguf_file(tmp_path: Path, installed: None, monkeypatch) -> None:
    monkeypatch.setattr("llm_serving.architectures.FAMILIES", {})
    with pytest.raises(CheckpointError, match="'llama'.* directory of safetensors"):
        choose_engine("auto", "cpu", write_tiny_llama(tmp_path / "m.gguf"))


def test_a_file_that_nobody_reads(tmp_path: Path, installed: None) -> None:
    with pytest.raises(CheckpointError, match="no .gguf file"):
        choose_engine("auto", "cpu", tmp_path)


@pytest.mark.parametrize(("engine", "device"), [("transformers", "cpu"), ("auto", "cuda:1"), ("auto", "mps")])
def test_the_missing_extra_is_one_command(gguf: Path, engine: str, device: str, not_installed: None) -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'llm-serving\[transformers\]'"):
        choose_engine(engine, device, gguf)


@pytest.mark.parametrize(
    ("engine", "device", "param"),
    [("onnx", "auto", "engine"), ("native", "cuda:1", "device"), ("fake", "mps", "device")],
)
def test_what_does_not_go_together(gguf: Path, engine: str, device: str, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        choose_engine(engine, device, gguf)
    assert caught.value.param == param


def test_names_of_the_extra_without_it(not_installed: None) -> None:
    for name in ("CustomStreamer", "load_causal_lm", "load_encoder"):
        with pytest.raises(MissingExtra):
            getattr(transformers_backend, name)
    with pytest.raises(AttributeError):
        _ = transformers_backend.nothing


def test_an_encoder_does_not_chat_and_the_setting_for_it_is_named(tmp_path: Path, installed: None) -> None:
    bert = write_tiny_bert(tmp_path / "bert")
    with pytest.raises(CheckpointError, match=r"\('bert'\).*does not chat.*--embedding-model .*bert"):
        choose_engine("auto", "auto", bert)


def test_families_of_nearly_that_name_are_told() -> None:
    checkpoint = Checkpoint("m.gguf", "qwen3mo", {}, {})
    with pytest.raises(CheckpointError, match=r"it runs \d+ others, such as qwen3moe, "):
        describe(checkpoint)


def test_encoders_go_by_the_same_rule(tmp_path: Path, directory: Path, installed: None) -> None:
    bert = open_checkpoint(write_tiny_bert(tmp_path / "bert"))
    assert choose_encoder_engine("auto", "cpu", bert).reason == "it runs the family 'bert'"
    for engine, device in (("transformers", "auto"), ("native", "cpu"), ("auto", "cuda:1")):
        choice = choose_encoder_engine(engine, device, bert)
        assert choice.name == ("transformers" if device == "cuda:1" else engine)
        assert "was asked for" in choice.reason
    choice = choose_encoder_engine("auto", "auto", open_checkpoint(directory))
    assert choice.name == "transformers"
    assert "does not run the encoder family 'xlnet'" in choice.reason
    with pytest.raises(CheckpointError, match="does not run the encoder family 'nonsense'"):
        choose_encoder_engine("auto", "cpu", Checkpoint("m.gguf", "nonsense", {}, {}))


def test_encoders_without_the_extra(directory: Path, not_installed: None) -> None:
    with pytest.raises(CheckpointError, match=r"pip install 'llm-serving\[transformers\]'"):
        choose_encoder_engine("auto", "cpu", open_checkpoint(directory))


def test_vllm_is_asked_for_by_name(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_backend, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'llm-serving\[vllm\]'"):
        choose_engine("vllm", "cuda:0", gguf)
    monkeypatch.setattr(vllm_backend, "find_spec", lambda name: object())
    assert choose_engine("vllm", "cuda:0", gguf).name == "vllm"


def test_encoders_beside_vllm_are_the_cpus(tmp_path: Path, directory: Path, installed: None) -> None:
    bert = open_checkpoint(write_tiny_bert(tmp_path / "bert"))
    assert choose_encoder_engine("vllm", "cuda:0", bert).name == "native"
    assert choose_encoder_engine("vllm", "cuda:0", open_checkpoint(directory)).name == "transformers"
