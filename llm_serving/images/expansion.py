"""The text that stands for a picture in a prompt: its tokens are places for the picture's rows."""

from __future__ import annotations

from llm_serving.images.tiling import Grid

IMAGE = "<image>"  # what a template writes for a picture, and each of its places
_AROUND = "<fake_token_around_image>"
_WHOLE = "<global-img>"


def expansion(grid: Grid, rows: int) -> str:
    """Of a picture cut like that, with so many rows a tile: Idefics 3's and SmolVLM's form."""
    places = IMAGE * rows
    lines = "".join(
        "".join(f"{_AROUND}<row_{r}_col_{c}>{places}" for c in range(1, grid.columns + 1)) + "\n"
        for r in range(1, grid.rows + 1)
    )
    gap = "\n" if lines else ""
    return f"{lines}{gap}{_AROUND}{_WHOLE}{places}{_AROUND}"
