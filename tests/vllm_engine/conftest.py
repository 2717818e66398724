"""Everything here needs vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_decoder_directories import write_directory
from tiny_models import write_tiny_llama


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama; its heads are as wide as vLLM's attention for CPUs wants them at least."""
    return _written(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def roomy_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a context that what is told of functions fits into."""
    return _written(tmp_path_factory.mktemp("roomy"), context=1024)


def _written(folder: Path, **shape: int) -> Path:
    gguf = write_tiny_llama(folder / "tiny.gguf", vocab=516, hidden=128, heads=4, kv_heads=2, **shape)
    (folder / "tiny").mkdir()
    return write_directory(folder / "tiny", gguf, architectures=["LlamaForCausalLM"])


@pytest.fixture(scope="session")
def quick_start() -> Iterator[None]:
    """vLLM's processes compile nothing: it would take half a minute for the first log-probability."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_COMPILE_DISABLE", "1")
        yield
