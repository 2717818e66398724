"""Tiny random encoders in Hugging Face directories, written with numpy alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_DTYPES = {"f4": "F32", "f2": "F16", "f8": "F64", "i8": "I64", "i4": "I32", "u1": "U8"}


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], *, bfloat16: bool = False) -> Path:
    """Write arrays in the order given; with `bfloat16`, float32 ones lose their lower halves."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, array in tensors.items():
        kind = _DTYPES[array.dtype.str[1:]]
        content = np.ascontiguousarray(array)
        if bfloat16 and kind == "F32":
            kind, content = "BF16", (content.view("<u4") >> 16).astype("<u2")
        begin = len(data)
        data += content.tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [begin, len(data)]}
    return write_raw_safetensors(path, header, bytes(data))


def write_raw_safetensors(path: Path, header: Any, data: bytes) -> Path:
    """Whatever the header says, true or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")
    return path
