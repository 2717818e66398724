"""Everything here needs torch; models are written once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_serving.engine.protocol import EngineOptions

Load = Callable[..., Any]


@pytest.fixture(scope="session")
def directory_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A tiny model's directory; keywords are those of `write_model`."""
    from tiny_directories import write_model

    root = tmp_path_factory.mktemp("models")
    written: dict[str, Path] = {}

    def get(family: str, **how: Any) -> Path:
        key = repr((family, sorted(how.items())))
        if key not in written:
            written[key] = write_model(root / f"{family}-{len(written)}", family, **how)
        return written[key]

    return get


@pytest.fixture
def load(directory_of: Callable[..., Path]) -> Iterator[Load]:
    """Load a family's tiny model; keywords are engine options."""
    import asyncio

    from llm_serving.backends.transformers_backend import load_causal_lm

    loaded: list[Any] = []

    def get(family: str, **options: Any) -> Any:
        loaded.append(load_causal_lm(directory_of(family), EngineOptions(threads=1, **options), "cpu"))
        return loaded[-1]

    yield get
    for each in loaded:
        asyncio.run(each.engine.close())
