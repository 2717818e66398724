"""Which files of a repository on the hub are the model that was asked for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from llm_serving.errors import ModelNotFound
from llm_serving.models.hub_name import HubName

_PART = re.compile(r"(?P<stem>.*)-\d{5}-of-(?P<number>\d{5})$")
# How many bits weights have, as the end of a name tells: Q4_K_M, UD-Q4_K_XL, IQ4_XS, BF16, MXFP4_MOE.
_PRECISION = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:I?Q\d(?:_[0-9A-Z]+)*|TQ\d_\d|BF16|F16|F32|MXFP4(?:_MOE)?))$", re.I
)
# Without a word which: the smallest that answers nearly as the original does, then what is nearest to that.
_PREFERRED = ("Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "Q5_K_M", "Q5_K_S", "Q6_K", "Q8_0", "BF16", "F16", "F32")
_PROJECTORS = ("F16", "BF16", "Q8_0", "F32")
_SHOWN = 20
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")  # as PEFT calls them


def is_directory(files: Iterable[str]) -> bool:
    """Whether the repository itself is a model: a configuration beside weights, all parts of them."""
    names = set(files)
    weights = [name for name in names if "/" not in name and name.endswith(".safetensors")]
    return "config.json" in names and bool(weights) and _are_whole(weights)


def is_adapter(files: Iterable[str]) -> bool:
    """Whether the repository is a low-rank adapter."""
    return set(_ADAPTER) <= set(files)


def choose_adapter(name: HubName, files: Iterable[str]) -> list[str]:
    """The files of the low-rank adapter that the repository is. Raises: ModelNotFound, which says why not."""
    if name.which:
        raise ModelNotFound(str(name), f"An adapter is all of a repository: name {name.repository}")
    missing = [file for file in _ADAPTER if file not in set(files)]
    if missing:
        raise ModelNotFound(
            str(name),
            f"'{name.repository}' is no adapter as PEFT saves them: it has no {' and no '.join(missing)}.",
        )
    return list(_ADAPTER)


def gguf_models(files: Iterable[str]) -> dict[str, list[str]]:
    """Model → its files, the first part first, if all are there. A model is called by its precision if no
    other one has it.
    """
    models: dict[str, list[str]] = {}
    for file in sorted(files):
        path = PurePosixPath(file)
        if path.suffix.lower() == ".gguf" and not _is_beside(path.name):
            part = _PART.fullmatch(path.stem)
            models.setdefault(str(path.with_name(part["stem"] if part else path.stem)), []).append(file)
    models = {stem: files_of for stem, files_of in models.items() if _are_whole(files_of)}
    precisions = [_precision(stem) for stem in models]
    return {
        precision if precision and precisions.count(precision) == 1 else f"{stem}.gguf": files_of
        for precision, (stem, files_of) in zip(precisions, models.items(), strict=True)
    }


def choose_model(name: HubName, files: Iterable[str]) -> list[str]:
    """The files of the GGUF model that `name.which` means; without it of the only one, or of one in 4 bits.

    Raises: ModelNotFound, which says what there is.
    """
    models = gguf_models(files)
    if not models:
        raise ModelNotFound(
            str(name), f"'{name.repository}' has neither GGUF files nor safetensors with a config.json."
        )
    if not name.which and len(models) == 1:
        return next(iter(models.values()))
    for wanted in (name.which,) if name.which else _PREFERRED:
        fitting = [
            files_of for files_of in models.values() if any(_is_meant(wanted, file) for file in files_of)
        ]
        if fitting:
            return min(fitting, key=lambda files_of: len(files_of[0]))  # Q4_K_M before UD-Q4_K_M
    known = ", ".join(list(models)[:_SHOWN]) + (", …" if len(models) > _SHOWN else "")
    raise ModelNotFound(
        str(name),
        f"'{name.repository}' has {known}. Name one of them: {name.repository}:{next(iter(models))}",
    )


def choose_projector(files: Iterable[str]) -> list[str]:
    """The file with which the repository's GGUF models see, in 16 bits if there are several; or none."""
    projectors = [file for file in sorted(files) if file.endswith(".gguf") and _is_projector(file)]
    if len(projectors) < 2:
        return projectors
    by_precision = {_precision(PurePosixPath(file).stem).upper(): file for file in reversed(projectors)}
    return next(([by_precision[each]] for each in _PROJECTORS if each in by_precision), projectors[:1])


def _are_whole(files: Iterable[str]) -> bool:
    """Whether no part is missing of those that say how many there are; a fetch may have ended in between."""
    parts: Counter[tuple[str, int]] = Counter()
    for file in files:
        if part := _PART.fullmatch(PurePosixPath(file).stem):
            parts[part["stem"], int(part["number"])] += 1
    return all(found == number for (_, number), found in parts.items())


def _is_meant(which: str, file: str) -> bool:
    path = PurePosixPath(file)
    if which.lower().endswith(".gguf"):
        return which in (file, path.name)
    part = _PART.fullmatch(path.stem)
    stem, wanted = (part["stem"] if part else path.stem).lower(), which.lower()
    return stem == wanted or (stem.endswith(wanted) and stem[-len(wanted) - 1] in "-._")


def _precision(stem: str) -> str:
    match = _PRECISION.search(stem)
    return match[1] if match else ""


def _is_beside(name: str) -> bool:
    """Not a model of its own: what one sees with, and what its quantisation went by."""
    return _is_projector(name) or "imatrix" in name.lower()


def _is_projector(file: str) -> bool:
    return "mmproj" in PurePosixPath(file).name.lower()
