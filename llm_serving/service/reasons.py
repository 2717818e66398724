"""Why a model cannot answer, in one line: whole for the log, without this machine's folders for clients."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from llm_serving.errors import ServingError

_SEGMENT = r"/[^\s/:'\",;()<>]+"


def one_line(error: BaseException) -> str:
    """What may be said of an error: our own words as they are, of foreign ones the type only."""
    if isinstance(error, ServingError):
        return " ".join(str(error).split())
    return f"{type(error).__name__}; the log says more."


def without_folders(text: str, folders: Sequence[str] = ()) -> str:
    """The text with the names of files alone where it has absolute paths.

    `folders` are known: in others a blank would look like the end of a path.
    """
    known = "".join(f"{re.escape(folder)}|" for folder in sorted(folders, key=len, reverse=True))
    return re.sub(rf"(?<![\w/.])(?:{known}~|)(?:{_SEGMENT})*/(?=[^\s/])", "", text)


def folders_of(name: str, *more: Path | None) -> list[str]:
    """Where the model of this name or path is, and `more`, as errors may call it."""
    paths = [path for path in (Path(name).parent, Path.home(), *more) if path is not None]
    spelled = [spelling for path in paths for spelling in (path, path.expanduser(), path.absolute())]
    return sorted({str(path) for path in spelled if len(path.parts) > 1})
