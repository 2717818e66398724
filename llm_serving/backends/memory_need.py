"""What a chat model takes of the memory, known before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_KV_BYTES = 4 << 30  # at most, in a memory that others use too


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes. Keys and values: the least and the most a model can use, and those of one whole conversation.

    With them go the states of recurrent layers.
    """

    weights: int  # and whatever is neither weights nor keys and values
    least_kv: int
    conversation_kv: int
    most_kv: int


def kv_share(weights: int, available: int) -> int:
    """Bytes of keys and values where nobody said how many: half of what is left, within bounds."""
    return min(DEFAULT_KV_BYTES, (available - weights) // 2)
