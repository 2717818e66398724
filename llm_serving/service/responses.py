"""Responses that clients may ask for again, or continue: in memory, bounded, forgotten at the end."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from llm_serving.errors import ResponseNotFound

MAX_RESPONSES = 4096
MAX_BYTES = 64 << 20


class StoredResponse(NamedTuple):
    """One response and what a next one continues: JSON, so that the bytes it takes are known."""

    body: bytes
    items: bytes  # of the input
    messages: bytes  # before the answer and with it, without instructions

    @property
    def num_bytes(self) -> int:
        return len(self.body) + len(self.items) + len(self.messages)


class ResponseStore:
    """The last of them; each is only there for the key that asked for it. Event loop only."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._responses: OrderedDict[tuple[str, str], StoredResponse] = OrderedDict()

    def add(self, owner: str, response_id: str, response: StoredResponse) -> None:
        """Keep it, and forget the oldest beyond the bounds. One that is larger than all of it is not kept."""
        if response.num_bytes > self._max_bytes:
            return
        self._responses[owner, response_id] = response
        self._num_bytes += response.num_bytes
        while len(self._responses) > self._max_responses or self._num_bytes > self._max_bytes:
            _, oldest = self._responses.popitem(last=False)
            self._num_bytes -= oldest.num_bytes

    def get(self, owner: str, response_id: str) -> StoredResponse:
        """Raises: ResponseNotFound."""
        try:
            return self._responses[owner, response_id]
        except KeyError:
            raise ResponseNotFound(response_id) from None

    def remove(self, owner: str, response_id: str) -> None:
        """Raises: ResponseNotFound."""
        self._num_bytes -= self.get(owner, response_id).num_bytes
        del self._responses[owner, response_id]
