"""Which projector file lies beside a GGUF model: what llama.cpp calls an mmproj, and so names it."""

from __future__ import annotations

import re
from pathlib import Path

from llm_serving.errors import CheckpointError

_MARK = "mmproj"
_PART = re.compile(r"-\d{5}-of-\d{5}$")
# How many bits weights have, as the last part of a name tells: f16, q8-0, iq4-xs, q4-k-m, ud-q4-k-xl, mxfp4.
_PRECISION = re.compile(r"-(b?f16|f32|mxfp4|(ud-)?i?q\d(-[0-9a-z]{1,3}){0,2})$")


def is_projector_name(name: str) -> bool:
    """Whether this is no model by its name, but what one sees with."""
    return _MARK in name.lower()


def find_projector(model: Path) -> Path | None:
    """The projector file in the folder of a GGUF file: the one there is, or of several the one that is called
    as the model is, at best with the same precision. None without any.

    Raises: CheckpointError for several of which none, or more than one, is called like that.
    """
    try:
        files = sorted(
            file
            for file in model.parent.iterdir()
            if file.suffix == ".gguf" and is_projector_name(file.name) and file.is_file()
        )
    except OSError:
        return None
    if len(files) < 2:
        return files[0] if files else None
    own = _words(model)
    alike = [file for file in files if _words(file) == own]
    same_model = [file for file in files if _PRECISION.sub("", _words(file)) == _PRECISION.sub("", own)]
    for fitting in (alike, same_model):
        if len(fitting) == 1:
            return fitting[0]
    names = ", ".join(file.name for file in files)
    raise CheckpointError(f"{model.parent}: holds {len(files)} projector files ({names}).")


def _words(file: Path) -> str:
    """The name in small letters with one mark between words, without `mmproj` and the number of a part."""
    stem = _PART.sub("", file.stem.lower()).replace(_MARK, "-")
    return re.sub(r"[^0-9a-z]+", "-", stem).strip("-")
