"""Responses that clients may ask for again, or continue: in memory, bounded, forgotten at the end."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from llm_serving.errors import Overloaded, ResponseNotFound
from llm_serving.service.event_log import EventLog

MAX_RESPONSES = 4096
MAX_BYTES = 64 << 20
MAX_AT_WORK = 48

Key = tuple[str, str]  # owner and id


@dataclass(slots=True, eq=False)
class StoredResponse:
    """One response and what a next one continues: JSON, so that the bytes it takes are known."""

    body: bytes
    items: bytes  # of the input
    messages: bytes  # before the answer and with it, without instructions
    status: str = "completed"  # as in the body
    item_ids: Sequence[str] = ()  # of the output, when it is complete
    is_background: bool = False
    events: EventLog | None = None  # if it may be streamed again
    work: asyncio.Task[None] | None = None  # on it, in the background

    @property
    def num_bytes(self) -> int:
        num_event_bytes = self.events.num_bytes if self.events is not None else 0
        num_id_bytes = sum(map(len, self.item_ids))
        return len(self.body) + len(self.items) + len(self.messages) + num_id_bytes + num_event_bytes

    @property
    def has_answer(self) -> bool:
        """Whether there is something to continue."""
        return self.status in ("completed", "incomplete")

    async def cancel(self) -> None:
        """End the work on it, if there is any left; returns when it has ended."""
        if self.work is not None:
            await asyncio.sleep(0)  # a task that is cancelled before its first step cannot clean up
            self.work.cancel()
            await asyncio.wait([self.work])


class ResponseStore:
    """The last of them; each is only there for the key that asked for it. Event loop only.

    `max_at_work`: how many of one owner may be made in the background at a time. These are not forgotten, and
    count with all that their events may take.
    """

    def __init__(
        self,
        max_responses: int = MAX_RESPONSES,
        max_bytes: int = MAX_BYTES,
        max_at_work: int = MAX_AT_WORK,
    ) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._max_at_work = max_at_work
        self._num_bytes = 0
        self._responses: OrderedDict[Key, StoredResponse] = OrderedDict()
        self._holders: dict[Key, StoredResponse] = {}  # by owner and id of an item of the output
        self._at_work: dict[Key, StoredResponse] = {}
        self._reserved: dict[Key, int] = {}  # bytes of those at work

    def add(self, owner: str, response_id: str, response: StoredResponse) -> None:
        """Keep it, and forget the oldest beyond the bounds. One that is larger than all of it is not kept."""
        if response.num_bytes > self._max_bytes:
            return
        self._responses[owner, response_id] = response
        self._holders.update(((owner, item_id), response) for item_id in response.item_ids)
        self._num_bytes += response.num_bytes
        self._forget()

    def begin(self, owner: str, response_id: str, response: StoredResponse) -> None:
        """Keep one that is to be made in the background; `end` must follow.

        Raises: Overloaded (as many as may be are at work, or all bytes are theirs); then nothing is kept.
        """
        num_at_work = sum(other == owner for other, _ in self._at_work)
        if num_at_work >= self._max_at_work:
            raise Overloaded(
                f"{num_at_work} responses are being made in the background. Wait until one ends."
            )
        num_bytes = response.num_bytes
        if response.events is not None:
            num_bytes += response.events.max_bytes - response.events.num_bytes
        if sum(self._reserved.values()) + num_bytes > self._max_bytes:
            raise Overloaded(
                "Responses that are being made in the background take all the memory there is for them. "
                "Wait until one ends."
            )
        self._at_work[owner, response_id] = response
        self._reserved[owner, response_id] = num_bytes
        self._num_bytes += num_bytes
        self._forget()

    def end(self, owner: str, response_id: str) -> None:
        """It has come to its end: from now on it is kept as all others are."""
        self._num_bytes -= self._reserved.pop((owner, response_id))
        self.add(owner, response_id, self._at_work.pop((owner, response_id)))

    def get(self, owner: str, response_id: str) -> StoredResponse:
        """Raises: ResponseNotFound."""
        key = (owner, response_id)
        response = self._at_work.get(key) or self._responses.get(key)
        if response is None:
            raise ResponseNotFound(response_id)
        return response

    def holder(self, owner: str, item_id: str) -> StoredResponse | None:
        """The response that has put out this item, if it is kept."""
        return self._holders.get((owner, item_id))

    async def remove(self, owner: str, response_id: str) -> None:
        """Forget it; what is at work on it ends. Raises: ResponseNotFound."""
        response = self.get(owner, response_id)
        await response.cancel()
        if self._responses.pop((owner, response_id), None) is not None:
            self._let_go(owner, response)

    async def close(self) -> None:
        """The end of the server, behind that of the engines: nothing is at work any more."""
        for response in list(self._at_work.values()):
            await response.cancel()

    def _forget(self) -> None:
        """The oldest, beyond the bounds."""
        while self._responses and (
            len(self._responses) > self._max_responses or self._num_bytes > self._max_bytes
        ):
            (owner, _), oldest = self._responses.popitem(last=False)
            self._let_go(owner, oldest)

    def _let_go(self, owner: str, response: StoredResponse) -> None:
        self._num_bytes -= response.num_bytes
        for item_id in response.item_ids:
            self._holders.pop((owner, item_id), None)
