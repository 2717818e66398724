"""Which projector file lies beside a GGUF model: what llama.cpp calls an mmproj, and so names it."""

from __future__ import annotations

import re
from pathlib import Path

from llm_serving.errors import CheckpointError

_MARK = "mmproj"
_PART = re.compile(r"-\d{5}-of-\d{5}$")
# How many bits weights have, as the last part of a name tells: f16, q8-0, iq4-xs, q4-k-m, ud-q4-k-xl, mxfp4.
_PRECISION = re.compile(r"-(b?f16|f32|mxfp4|(ud-)?i?q\d(-[0-9a-z]{1,3}){0,2})$")
_PREFERRED = ("f16", "bf16", "q8-0", "f32")


def is_projector_name(name: str) -> bool:
    """Whether this is no model by its name, but what one sees with."""
    return _MARK in name.lower()


def find_projector(model: Path) -> Path | None:
    """The projector file beside a GGUF file: the one there is, or of several the one that is called as the
    model is, at best with the same precision; or of one projector in several precisions the one in 16 bits.
    None without any.

    It lies in the model's folder, or, where that is called by a precision (`Q4_K_M/`), in the one above.
    Raises: CheckpointError for several of which none, or more than one, is called like that.
    """
    files = _projectors_in(model.parent)
    if not files and _precision(model.parent.name):
        files = _projectors_in(model.parent.parent)
    if len(files) < 2:
        return files[0] if files else None
    alike = [file for file in files if _words(file.stem) == _words(model.stem)]
    same_model = [file for file in files if _title(file.stem) == _title(model.stem)]
    for fitting in (alike, same_model):
        if len(fitting) == 1:
            return fitting[0]
    choice = same_model or files
    if len({_title(file.stem) for file in choice}) == 1:
        by_precision = {_precision(file.stem): file for file in choice}
        if "" not in by_precision:
            for precision in _PREFERRED:
                if precision in by_precision:
                    return by_precision[precision]
    names = ", ".join(file.name for file in files)
    raise CheckpointError(f"{files[0].parent}: holds {len(files)} projector files ({names}).")


def _projectors_in(folder: Path) -> list[Path]:
    try:
        return sorted(
            file
            for file in folder.iterdir()
            if file.suffix == ".gguf" and is_projector_name(file.name) and file.is_file()
        )
    except OSError:
        return []


def _precision(stem: str) -> str:
    match = _PRECISION.search(f"-{_words(stem)}")
    return match[1] if match else ""


def _title(stem: str) -> str:
    """The words without the precision."""
    return _PRECISION.sub("", f"-{_words(stem)}")


def _words(stem: str) -> str:
    """The name in small letters with one mark between words, without `mmproj` and the number of a part."""
    return re.sub(r"[^0-9a-z]+", "-", _PART.sub("", stem.lower()).replace(_MARK, "-")).strip("-")
