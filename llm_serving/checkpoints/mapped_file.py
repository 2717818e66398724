"""Files as memory that the kernel fills: nothing is read before it is used."""

from __future__ import annotations

import mmap
from pathlib import Path

from llm_serving.errors import CheckpointError


def map_file(path: str | Path) -> mmap.mmap:
    """Map a whole file, read-only. Raises: CheckpointError if it is missing, empty or unreadable."""
    try:
        if not Path(path).is_file():
            raise CheckpointError(f"{path}: there is no such file.")
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise CheckpointError(f"{path}: the file is empty.") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}.") from error
