"""What the reader returns, with the `gguf` package as the oracle."""

from __future__ import annotations

import gc
from pathlib import Path

import gguf
import numpy as np
import pytest

from llm_serving.checkpoints import open_checkpoint, read_gguf
from llm_serving.checkpoints.gguf import read_gguf_file
from llm_serving.checkpoints.kinds import GGML_TYPE_NAMES, GGUF_KINDS
from llm_serving.errors import CheckpointError

V = gguf.GGUFValueType


def write(path: Path, **split: int) -> Path:
    writer = gguf.GGUFWriter(path, "llama", **split)
    if not split:  # the oracle's writer forgets the alignment in the later parts
        writer.add_custom_alignment(64)
    writer.add_block_count(3)
    writer.add_float32("llama.rope.freq_base", 10000.5)
    writer.add_float64("some.double", 1e300)
    writer.add_bool("some.flag", True)
    writer.add_int8("some.small", -5)
    writer.add_uint64("some.large", 2**64 - 1)
    writer.add_string("some.text", "héllo ▁ 👋🏽\0")
    writer.add_array("some.words", ["", "a", "ß", "\n"])
    writer.add_array("some.numbers", [1, -2, 3])
    writer.add_array("some.floats", [0.5, 2.25])
    writer.add_key_value("some.bools", [True, False], V.ARRAY, V.BOOL)
    writer.add_key_value("some.bytes", [1, 255], V.ARRAY, V.UINT8)
    writer.add_key_value("some.nested", [["a"], ["b", "c"]], V.ARRAY, V.ARRAY)
    writer.add_chat_template("{{ messages }}")
    rng = np.random.default_rng(0)
    writer.add_tensor("norm", rng.standard_normal(5, dtype=np.float32))
    writer.add_tensor("matrix", rng.standard_normal((3, 2, 7)).astype(np.float16))
    blocks = rng.integers(0, 256, (4, 2 * 18), dtype=np.uint8)
    writer.add_tensor("quant", blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def equal_to_oracle(path: Path) -> None:
    oracle = gguf.GGUFReader(path)
    metadata, tensors = read_gguf_file(path)
    fields = {key: field for key, field in oracle.fields.items() if not key.startswith("GGUF.")}
    assert list(metadata) == list(fields)
    for key, field in fields.items():
        if key == "some.nested":  # which the oracle flattens
            continue
        ours = metadata[key]
        assert (ours.tolist() if isinstance(ours, np.ndarray) else ours) == field.contents(), key
    assert list(tensors) == [tensor.name for tensor in oracle.tensors]
    for theirs in oracle.tensors:
        tensor = tensors[theirs.name]
        assert tensor.kind == theirs.tensor_type.name
        assert tensor.shape == tuple(reversed(theirs.shape.tolist()))
        assert tensor.data.dtype == np.uint8
        assert not tensor.data.flags.writeable
        assert tensor.data.nbytes == theirs.n_bytes
        assert np.array_equal(tensor.data, theirs.data.reshape(-1).view(np.uint8))


def test_equals_the_gguf_package_on_a_file_with_every_type(tmp_path: Path) -> None:
    equal_to_oracle(write(tmp_path / "a.gguf"))


def test_metadata_has_python_and_numpy_types(tmp_path: Path) -> None:
    checkpoint = read_gguf(write(tmp_path / "a.gguf"))
    metadata = checkpoint.metadata
    assert checkpoint.architecture == "llama"
    assert checkpoint.chat_template == "{{ messages }}"
    assert checkpoint.hyper("block_count") == 3
    assert checkpoint.hyper("rope.freq_base") == 10000.5
    assert metadata["some.flag"] is True
    assert metadata["some.large"] == 2**64 - 1
    assert metadata["some.text"] == "héllo ▁ 👋🏽\0"
    assert metadata["some.words"] == ["", "a", "ß", "\n"]
    assert metadata["some.nested"] == [["a"], ["b", "c"]]
    assert metadata["some.numbers"].dtype == np.int32
    assert metadata["some.floats"].dtype == np.float32
    assert metadata["some.bools"].dtype == np.bool_
    assert metadata["some.bytes"].tolist() == [1, 255]


def test_block_sizes_are_those_of_the_format() -> None:
    for kind in GGUF_KINDS.values():
        if kind.name == "Q2_0":  # newer than the package
            continue
        sizes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.name]]
        assert (kind.block_size, kind.block_bytes) == sizes
    assert {t.value: t.name for t in gguf.GGMLQuantizationType}.items() <= GGML_TYPE_NAMES.items()


def test_tensors_outlive_the_checkpoint_and_the_file_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf")
    expected = read_gguf(path).tensors["quant"].data.tobytes()
    data = read_gguf(path).tensors["quant"].data
    path.unlink()
    gc.collect()
    assert data.tobytes() == expected


def test_split_model_is_merged_from_any_part(tmp_path: Path) -> None:
    whole = read_gguf(write(tmp_path / "whole.gguf"))
    (tmp_path / "split").mkdir()
    write(tmp_path / "split" / "m.gguf", split_max_tensors=1)
    parts = sorted((tmp_path / "split").iterdir())
    assert [part.name for part in parts] == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for path in (*parts, tmp_path / "split"):
        merged = open_checkpoint(path)
        assert merged.path == str(parts[0])
        assert merged.metadata["some.text"] == whole.metadata["some.text"]
        assert {name: t.data.tobytes() for name, t in merged.tensors.items()} == {
            name: t.data.tobytes() for name, t in whole.tensors.items()
        }


def test_split_model_with_a_missing_part_names_it(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", split_max_tensors=1)
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    with pytest.raises(CheckpointError, match="missing: m-00002-of-00003.gguf"):
        open_checkpoint(tmp_path)


def test_split_model_under_another_name_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", split_max_tensors=1)
    (tmp_path / "m-00001-of-00003.gguf").rename(tmp_path / "renamed.gguf")
    with pytest.raises(CheckpointError, match="one of 3 parts"):
        open_checkpoint(tmp_path / "renamed.gguf")


@pytest.mark.parametrize("name", ["m-00004-of-00003.gguf", "m-00000-of-00003.gguf", "m-00001-of-00000.gguf"])
def test_impossible_part_numbers_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="the name says part"):
        open_checkpoint(tmp_path / name)


def test_directory_must_hold_exactly_one_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no .gguf file and no config.json, only: nothing"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="a config.json and no weights"):
        open_checkpoint(tmp_path)
    write(tmp_path / "a.gguf")
    assert open_checkpoint(str(tmp_path)).architecture == "llama"
    write(tmp_path / "b.gguf")
    with pytest.raises(CheckpointError, match=r"2 models \(a.gguf, b.gguf\)"):
        open_checkpoint(tmp_path)


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none.gguf: there is no such file"):
        open_checkpoint(tmp_path / "none.gguf")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(CheckpointError, match=r"empty.gguf: the file is empty"):
        open_checkpoint(tmp_path / "empty.gguf")
