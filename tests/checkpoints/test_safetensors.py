"""Valid safetensors come back bit for bit; hostile ones are a CheckpointError and little memory."""

from __future__ import annotations

import json
import os
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_encoders import write_raw_safetensors, write_safetensors

from llm_serving.checkpoints import dequantize
from llm_serving.checkpoints.safetensors import MAX_HEADER_BYTES, SafetensorsFile, read_safetensors
from llm_serving.errors import CheckpointError

RNG = np.random.default_rng(0)
ARRAYS = {
    "matrix": RNG.normal(size=(3, 4)).astype(np.float32),
    "half": RNG.normal(size=(5,)).astype(np.float16),
    "position_ids": np.arange(7)[None],
    "flags": np.zeros(3, np.uint8),
    "odd": RNG.normal(size=(2, 2)).astype(np.float32),  # at an address that is no multiple of 4
    "scale": np.array(2.5, np.float32),
}
Read = Callable[[Any, bytes], SafetensorsFile]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(header: Any, data: bytes) -> SafetensorsFile:
        path = tmp_path / "m.safetensors"
        path.unlink(missing_ok=True)
        return read_safetensors(write_raw_safetensors(path, header, data))

    return read


def entry(dtype: Any = "F32", shape: Any = (2,), place: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": place}


def test_floats_come_back_and_the_rest_is_named(tmp_path: Path) -> None:
    file = read_safetensors(write_safetensors(tmp_path / "m.safetensors", ARRAYS))
    assert file.skipped == {"position_ids": "I64", "flags": "U8"}
    assert list(file.tensors) == ["matrix", "half", "odd", "scale"]
    for name, tensor in file.tensors.items():
        assert (tensor.name, tensor.shape) == (name, ARRAYS[name].shape)
        assert tensor.kind == ("F16" if name == "half" else "F32")
        assert tensor.data.dtype == np.uint8
        assert not tensor.data.flags.writeable
        np.testing.assert_array_equal(dequantize(tensor), ARRAYS[name].astype(np.float32))


def test_bfloat16(tmp_path: Path) -> None:
    exact = {"w": np.array([[1.5, -2.0, 3.25e9]], np.float32)}
    tensor = read_safetensors(write_safetensors(tmp_path / "m.safetensors", exact, bfloat16=True)).tensors[
        "w"
    ]
    assert (tensor.kind, tensor.data.nbytes) == ("BF16", 6)
    np.testing.assert_array_equal(dequantize(tensor), np.array([[1.5, -2.0, 3238002688.0]], np.float32))


def test_a_file_without_tensors_is_empty(read: Read) -> None:
    assert read({}, b"") == SafetensorsFile({}, {})


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"", b"", "no JSON"),
        (b"[]", b"", "not a JSON object"),
        (b'{"a": ' + b"[" * 100_000, b"", "nests too deep|no JSON"),
        (b'{"\xff": 1}', b"", "not valid UTF-8"),
        (b'{"a": 1, "a": 2}', b"", "'a' stands there twice"),
        ({"a": 5}, b"", "tensor 'a' is described by no JSON object"),
        ({"a": entry(dtype=3)}, bytes(8), "tensor 'a' has no text 'dtype'"),
        ({"a": entry(shape=None)}, bytes(8), "'shape' that is not a list"),
        ({"a": entry(shape=[2.0])}, bytes(8), "'shape' that is not a list"),
        ({"a": entry(shape=[True, 2])}, bytes(8), "'shape' that is not a list"),
        ({"a": entry(shape=[-2])}, bytes(8), "'shape' that is not a list"),
        ({"a": entry(shape=[1] * 9)}, bytes(8), "up to 8 sizes"),
        ({"a": entry(shape=[10**30, 0])}, bytes(8), "'shape' that is not a list"),
        ({"a": entry(shape=[0], place=[0, 0])}, b"", "dimension of 0"),
        ({"a": entry(shape=[3])}, bytes(8), r"shape \(3,\) needs 12 bytes, but its place has 8"),
        ({"a": entry(shape=[2**40, 2**40])}, bytes(8), "but its place has 8"),
        ({"a": entry("I64", [2])}, bytes(8), "type I64.* needs 16 bytes"),
        ({"a": entry(place=None)}, bytes(8), "not a beginning and an end"),
        ({"a": entry(place=[0, 8, 9])}, bytes(8), "not a beginning and an end"),
        ({"a": entry(place=[8, 0])}, bytes(8), "not a beginning and an end"),
        ({"a": entry(place=[-8, 0])}, bytes(8), "not a beginning and an end"),
        ({"a": entry(place=[0, "8"])}, bytes(8), "not a beginning and an end"),
        ({"a": entry()}, bytes(7), "ends at byte 8 of the data, which has 7"),
        ({"a": entry("F9", [], [0, 2**62])}, bytes(7), "ends at byte"),
        ({"a": entry(), "b": entry()}, bytes(8), "tensors 'a' and 'b' overlap"),
        ({"a": entry(), "b": entry("I32", [2], [4, 12])}, bytes(12), "tensors 'a' and 'b' overlap"),
        ({"a": entry(), "b": entry(place=[16, 24])}, bytes(24), "8 bytes before tensor 'b' belong to no"),
        ({"a": entry()}, bytes(9), "1 bytes at the end belong to no tensor"),
    ],
)
def test_hostile_headers_name_file_and_tensor(read: Read, header: Any, data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"m\.safetensors: .*({message})"):
        read(header, data)


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, MAX_HEADER_BYTES + 1, MAX_HEADER_BYTES, 1000])
def test_a_header_longer_than_the_file_allocates_nothing(tmp_path: Path, length: int) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="the header claims"):
            read_safetensors(path)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_truncation_at_every_byte_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", ARRAYS)
    for cut in range(path.stat().st_size - 1, -1, -1):
        os.truncate(path, cut)
        with pytest.raises(CheckpointError, match=r"m\.safetensors: "):
            read_safetensors(path)


def test_random_damage_is_an_error_or_a_file(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", ARRAYS)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    rng = random.Random(1)
    outcomes = set()
    for _ in range(600):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(header)] = rng.choice(b'0123456789"{}[],: F\x00\xff')
        path.unlink()  # truncating in place would fault the mapping of the file before
        path.write_bytes(damaged)
        try:
            for tensor in read_safetensors(path).tensors.values():
                assert dequantize(tensor).shape == tensor.shape
            outcomes.add("read")
        except CheckpointError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_what_is_written_is_the_format(tmp_path: Path) -> None:
    """Our writer and reader agree with each other; this holds both to the format's text."""
    whole = write_safetensors(tmp_path / "m.safetensors", {"w": np.ones(1, np.float32)}).read_bytes()
    length = int.from_bytes(whole[:8], "little")
    assert json.loads(whole[8 : 8 + length])["w"] == {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    assert whole[8 + length :] == b"\0\0\x80\x3f"
