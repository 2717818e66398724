"""A response that is made in the background: it is no connection's, and its readers come and go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

import orjson
from starlette.types import Scope, Send

from llm_serving.api.convert.response_output import Event
from llm_serving.api.convert.responses import ResponseStream, error_event, item_ids, of_response
from llm_serving.api.errors import note_error
from llm_serving.api.respond import concluded
from llm_serving.api.sse import ServerSentEvents, body_message, log_unknown, typed_event
from llm_serving.config import Settings
from llm_serving.errors import InvalidRequest
from llm_serving.ops.metrics import Metrics
from llm_serving.service.event_log import EventLog
from llm_serving.service.generation import Generation
from llm_serving.service.responses import ResponseStore, StoredResponse

logger = logging.getLogger(__name__)


class BackgroundWork:
    """Makes one response; `kept` is always what it has come to."""

    def __init__(self, generation: Generation, stream: ResponseStream, kept: StoredResponse) -> None:
        self._generation = generation
        self._stream = stream
        self._kept = kept
        self._show("queued", "created", "queued")

    async def begin(self, store: ResponseStore, owner: str, response_id: str, metrics: Metrics) -> None:
        """Have it kept, and made by a task of its own. Raises: Overloaded; then its generation is left."""
        try:
            store.begin(owner, response_id, self._kept)
        except BaseException:
            async with self._generation:
                raise
        self._kept.work = asyncio.ensure_future(self._run(store, owner, response_id, metrics))

    async def _run(self, store: ResponseStore, owner: str, response_id: str, metrics: Metrics) -> None:
        """To the end, whatever that is: complete, failed, or cancelled with this task."""
        try:
            async with self._generation:
                async for batch in self._generation:
                    if self._kept.status == "queued":
                        self._show("in_progress", "in_progress")
                    self._tell(self._stream.events(batch))
                self._end(self._stream.finish(self._generation.usage()))
        except asyncio.CancelledError:
            self._tell(self._stream.cut_off())
            self._end(self._stream.response("cancelled", self._generation.usage()))
        except Exception as error:
            log_unknown(error, response_id)
            self._tell([error_event(error, response_id)])
            self._end(self._stream.failed(error, response_id))
        finally:
            if self._kept.events is not None:
                self._kept.events.complete()
            store.end(owner, response_id)
            facts = concluded(self._generation, metrics).items()
            told = " ".join(f"{name}={value}" for name, value in facts)
            logger.info("response %s is %s: %s", response_id, self._kept.status, told)

    def _show(self, status: str, *kinds: str) -> None:
        self._keep(self._stream.response(status), *kinds)

    def _end(self, response: dict[str, object]) -> None:
        self._keep(response, str(response["status"]))

    def _keep(self, response: dict[str, object], *kinds: str) -> None:
        self._kept.body = orjson.dumps(response)
        self._kept.status = str(response["status"])
        self._kept.item_ids = item_ids(response) if self._kept.has_answer else ()
        self._tell(of_response(kind, response) for kind in kinds)

    def _tell(self, events: Iterable[Event]) -> None:
        """Where nobody may listen the events are made all the same: the output grows by them."""
        if self._kept.events is not None:
            self._kept.events.add(self._stream.frames(events))
        else:
            for _ in events:
                pass


def replay(log: EventLog, after: int, settings: Settings, headers: Mapping[str, str]) -> ReplayedStream:
    """The events behind number `after`. Raises: InvalidRequest, if they are not there."""
    log.require(after)
    return ReplayedStream(log, after, heartbeat_s=settings.heartbeat_s, headers=headers)


class ReplayedStream(ServerSentEvents):
    """The events of a response behind number `after`: those that are kept, then those to come."""

    def __init__(self, log: EventLog, after: int, *, heartbeat_s: float, headers: Mapping[str, str]) -> None:
        super().__init__(heartbeat_s=heartbeat_s, headers=headers)
        self._log = log
        self._after = after

    async def write(self, scope: Scope, send: Send) -> None:
        last = b""
        try:
            async for frames in self._log.read(self._after):
                await send(body_message(frames))
        except InvalidRequest as error:  # the reader is slower than the events are forgotten
            note_error(scope, error)
            last = typed_event(error_event(error, scope["state"]["request_id"]))
        await send(body_message(last, more_body=False))
