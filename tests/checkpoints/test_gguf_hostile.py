"""Damaged and hostile files: a CheckpointError or a valid checkpoint, nothing else, and little memory."""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llm_serving.checkpoints import Checkpoint, read_gguf
from llm_serving.errors import CheckpointError

U8, BOOL, STRING, ARRAY, U32 = 0, 7, 8, 9, 4
F32, Q4_0 = 0, 2
HUGE = [2**63, 2**64 - 1, 2**32, 2**31]


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def entry(key: str, type_id: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", type_id) + value


def array(type_id: int, count: int, elements: bytes = b"") -> bytes:
    return struct.pack("<IQ", type_id, count) + elements


def info(name: str, dims: list[int], kind: int = F32, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


ARCHITECTURE = entry("general.architecture", STRING, text("llama"))


def file_of(
    entries: list[bytes],
    infos: list[bytes],
    data: int = 0,
    *,
    version: int = 3,
    num_entries: int | None = None,
    num_infos: int | None = None,
) -> bytes:
    counts = (
        len(infos) if num_infos is None else num_infos,
        len(entries) if num_entries is None else num_entries,
    )
    header = struct.pack("<4sIQQ", b"GGUF", version, *counts) + b"".join(entries + infos)
    return header + bytes(-len(header) % 32) + bytes(data)


def small_model() -> tuple[bytes, int]:
    """A valid file and the length of its header."""
    words = ["a", "bc", "", "▁d"]
    entries = [
        ARCHITECTURE,
        entry("words", ARRAY, array(STRING, len(words), b"".join(map(text, words)))),
        entry("numbers", ARRAY, array(U32, 3, struct.pack("<3I", 1, 2, 3))),
        entry("nested", ARRAY, array(ARRAY, 1, array(U8, 2, b"\1\2"))),
        entry("flag", BOOL, b"\1"),
        entry("general.alignment", U32, struct.pack("<I", 32)),
        entry("tokenizer.chat_template", STRING, text("{{ x }}")),
    ]
    infos = [info("norm", [8]), info("matrix", [64, 3], Q4_0, 32)]
    model = file_of(entries, infos, 32 + 6 * 18)
    return model, len(model) - 32 - 6 * 18


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], Checkpoint]:
    path = tmp_path / "m.gguf"

    def read(content: bytes) -> Checkpoint:
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        return read_gguf(path)

    return read


Read = Callable[[bytes], Checkpoint]


def test_the_small_model_is_valid(read: Read) -> None:
    checkpoint = read(small_model()[0])
    assert checkpoint.metadata["words"] == ["a", "bc", "", "▁d"]
    assert checkpoint.tensors["matrix"].shape == (3, 64)


def test_truncation_at_every_byte_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    model, header = small_model()
    path = tmp_path / "m.gguf"
    path.write_bytes(model)
    for cut in (len(model) - 1, *range(len(model) - 2, header, -7), *range(header, -1, -1)):
        os.truncate(path, cut)
        with pytest.raises(CheckpointError, match=r"m\.gguf: "):
            read_gguf(path)


@pytest.mark.slow
def test_single_byte_mutations_are_read_or_refused(tmp_path: Path) -> None:
    model, header = small_model()
    path = tmp_path / "m.gguf"
    path.write_bytes(model)
    rng = random.Random(1)
    problems: list[str] = []
    num_read = 0
    with path.open("r+b", buffering=0) as file:
        for _ in range(3000):
            at = rng.randrange(header)
            file.seek(at)
            file.write(bytes([rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])]))
            try:
                checkpoint = read_gguf(path)
            except CheckpointError as error:
                problems.append(str(error))
            else:
                num_read += all(tensor.data.nbytes for tensor in checkpoint.tensors.values())
            file.seek(at)
            file.write(model[at : at + 1])
    assert len(problems) + num_read == 3000
    assert len(problems) > 500
    assert num_read > 500
    assert all("m.gguf" in problem for problem in problems)


@pytest.mark.parametrize("count", HUGE)
def test_huge_counts_are_refused_before_anything_is_allocated(read: Read, count: int) -> None:
    elements = bytes(64)
    bad = [
        file_of([ARCHITECTURE], [], num_entries=count),
        file_of([ARCHITECTURE], [], num_infos=count),
        file_of([ARCHITECTURE, struct.pack("<Q", count) + b"key"], []),
        file_of([ARCHITECTURE, entry("k", STRING, struct.pack("<Q", count))], []),
        file_of([ARCHITECTURE], [struct.pack("<Q", count) + bytes(32)]),
        file_of([ARCHITECTURE], [info("t", [count])], 64),
        file_of([ARCHITECTURE], [info("t", [count] * 4)], 64),
        file_of([ARCHITECTURE], [info("t", [8], offset=count & ~31)], 64),
        *(
            file_of([ARCHITECTURE, entry("k", ARRAY, array(type_id, count, elements))], [])
            for type_id in (*range(13),)
        ),
    ]
    with little_memory():
        for content in bad:
            with pytest.raises(CheckpointError, match=r"m\.gguf: at byte \d+: "):
                read(content)


def nested(depth: int) -> bytes:
    return array(ARRAY, 1, nested(depth - 1)) if depth else array(U8, 0)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"GGML" + bytes(60), "not a GGUF file"),
        (file_of([ARCHITECTURE], [], version=1), "version 1"),
        (file_of([ARCHITECTURE], [], version=3 << 24), "big-endian"),
        (file_of([], []), "general.architecture"),
        (file_of([entry("general.architecture", U32, bytes(4))], []), "general.architecture"),
        (
            file_of([ARCHITECTURE, entry("tokenizer.chat_template", U32, bytes(4))], []),
            "'tokenizer.chat_template' is not a text",
        ),
        (file_of([ARCHITECTURE, ARCHITECTURE], []), "'general.architecture' stands there twice"),
        (file_of([ARCHITECTURE, entry("k", 13, bytes(8))], []), "'k' has the unknown type 13"),
        (file_of([ARCHITECTURE, entry("k", ARRAY, array(99, 1))], []), "elements of the unknown type 99"),
        (file_of([ARCHITECTURE, entry("k", BOOL, b"\2")], []), "bool of value 2"),
        (file_of([ARCHITECTURE, entry("k", ARRAY, array(BOOL, 1, b"\2"))], []), "neither 0 nor 1"),
        (file_of([ARCHITECTURE, entry("k", STRING, text(b"\xff"))], []), "not valid UTF-8"),
        (file_of([ARCHITECTURE, entry("k", ARRAY, nested(200))], []), "more than 4 deep"),
        (
            file_of([ARCHITECTURE, entry("general.alignment", U32, struct.pack("<I", 48))], []),
            "'general.alignment' is 48",
        ),
        (
            file_of([ARCHITECTURE, entry("general.alignment", STRING, text("8"))], []),
            "'general.alignment' is 8",
        ),
        (file_of([ARCHITECTURE], [info("t", [8]), info("t", [8], offset=32)], 64), "'t' stands there twice"),
        (file_of([ARCHITECTURE], [info("t", [])], 64), "'t' has 0 dimensions"),
        (file_of([ARCHITECTURE], [info("t", [1] * 5)], 64), "'t' has 5 dimensions"),
        (file_of([ARCHITECTURE], [info("t", [8, 0])], 64), "'t' has a dimension of 0"),
        (file_of([ARCHITECTURE], [info("t", [33], Q4_0)], 64), "'t' has 33 columns; Q4_0 needs a multiple"),
        (
            file_of([ARCHITECTURE], [info("t", [256], 15)], 256),
            "'t' is of type Q8_K; the types read are F32",
        ),
        (file_of([ARCHITECTURE], [info("t", [256], 26)], 256), "'t' is of type I32"),
        (file_of([ARCHITECTURE], [info("t", [256], 77)], 256), "'t' is of type number 77"),
        (file_of([ARCHITECTURE], [info("t", [8], offset=4)], 64), "'t' has offset 4"),
        (file_of([ARCHITECTURE], [info("t", [8], offset=64)], 64), "'t' takes 32 bytes from byte"),
        (file_of([ARCHITECTURE], [info("a", [9]), info("b", [8], offset=32)], 64), "'a' and 'b' overlap"),
    ],
)
def test_what_is_wrong_is_said(read: Read, content: bytes, problem: str) -> None:
    with pytest.raises(CheckpointError, match=r"m\.gguf: ") as caught:
        read(content)
    assert problem in str(caught.value)


def test_version_2_is_read(read: Read) -> None:
    assert read(file_of([ARCHITECTURE], [info("t", [8])], 32, version=2)).tensors["t"].shape == (8,)
