"""The text that stands for a picture in a prompt: its tokens are places for the picture's rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from llm_serving.images.pixels import Grid

IMAGE = "<image>"  # what a template writes for a picture, unless its family has another word
_AROUND = "<fake_token_around_image>"
_WHOLE = "<global-img>"
_BEGIN, _END, _SOFT = "<start_of_image>", "<end_of_image>", "<image_soft_token>"
_PADDING = "<pad>"
_PAD = "<|image_pad|>"
_MARK_4, _BEGIN_4, _END_4 = "<|image|>", "<|image>", "<image|>"


@dataclass(frozen=True, slots=True)
class Wording:
    """A family's words for pictures."""

    mark: str  # what its template writes for each
    place: str  # the token of a row
    expansion: Callable[[Grid, int], str]  # of a picture cut like that, with so many rows a tile
    spare: Wording | None = None  # for vocabularies that do not have `place`


def _tiles(grid: Grid, rows: int) -> str:
    places = IMAGE * rows
    lines = "".join(
        "".join(f"{_AROUND}<row_{r}_col_{c}>{places}" for c in range(1, grid.columns + 1)) + "\n"
        for r in range(1, grid.rows + 1)
    )
    gap = "\n" if lines else ""
    return f"{lines}{gap}{_AROUND}{_WHOLE}{places}{_AROUND}"


def _soft_tokens(_: Grid, rows: int, place: str = _SOFT) -> str:
    return f"\n\n{_BEGIN}{place * rows}{_END}\n\n"


def _places(_: Grid, rows: int) -> str:
    return _PAD * rows


def _paddings(_: Grid, rows: int) -> str:
    return f"{_BEGIN_4}{_PADDING * rows}{_END_4}"


TILES = Wording(IMAGE, IMAGE, _tiles)  # Idefics 3 and SmolVLM
# Gemma 3, whose pictures are one tile each. A GGUF file's vocabulary may end before <image_soft_token>, as
# llama.cpp needs none; what stands there is never looked up, so it may be any token that no prompt has.
SOFT_TOKENS = Wording(
    _BEGIN, _SOFT, _soft_tokens, Wording(_BEGIN, _PADDING, partial(_soft_tokens, place=_PADDING))
)
PADS = Wording(_PAD, _PAD, _places)  # Qwen-VL, whose templates write what stands around them
# Gemma 4, whose layers are told of a picture's rows what they are told of padding.
PADDINGS = Wording(_MARK_4, _PADDING, _paddings)
