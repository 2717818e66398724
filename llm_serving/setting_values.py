"""How values of settings may be written: sizes, lists, adapters."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

MOST_ADAPTERS = 64
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_bytes(value: object) -> object:
    """`"4G"`, `"512 MiB"`, `"1.5gb"` → bytes (powers of 1024); `"auto"` and `""` → 0; numbers pass."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower().removesuffix("b").removesuffix("i")
    if text in ("", "auto"):
        return 0
    unit = text[-1] if text[-1] in _UNITS else ""
    try:
        return int(float(text.removesuffix(unit)) * _UNITS[unit])
    except (ValueError, OverflowError):
        raise ValueError("must be a number of bytes such as 4G, 512M or 1073741824") from None


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _split_all(value: Any) -> Any:
    """As `_split`, also of what was given several times."""
    return (
        tuple(part for one in value for part in _split(one))
        if isinstance(value, (list, tuple))
        else _split(value)
    )


def _check_adapters(items: tuple[str, ...]) -> tuple[str, ...]:
    if len(items) > MOST_ADAPTERS:
        raise ValueError(f"names {len(items)} adapters; {MOST_ADAPTERS} are possible")
    if not all(re.fullmatch(r"[\w.:/-]{1,128}=.+", item) for item in items):
        raise ValueError(
            "must be NAME=DIR or NAME=owner/adapter, with a name of letters, digits and . _ - : /"
        )
    return items


Listed = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_all)]
Adapters = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_adapters)]
Bytes = Annotated[int, BeforeValidator(parse_bytes)]
