"""Wiring and life of the services, for our app and for anybody else's."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from fastapi import FastAPI

from llm_serving.api.deps import Services
from llm_serving.api.errors import error_body
from llm_serving.api.inner import ask_app
from llm_serving.api.running import Running, announced
from llm_serving.config import Settings
from llm_serving.embeddings.batcher import BatcherStats
from llm_serving.engine.protocol import EngineStats
from llm_serving.errors import AuthError
from llm_serving.ops.auth import KeyRing, is_loopback
from llm_serving.ops.drain import on_stop_signal
from llm_serving.ops.metrics import Metrics
from llm_serving.ops.stacks import stacks_on_signal
from llm_serving.service.batch_answers import Asked
from llm_serving.service.batch_lines import BatchLine
from llm_serving.service.batch_work import work_on
from llm_serving.service.batches import BatchStore
from llm_serving.service.chat import ChatService
from llm_serving.service.classification import ClassificationService
from llm_serving.service.completion import CompletionService
from llm_serving.service.embedding import EmbeddingService
from llm_serving.service.encoder_loader import load_encoder_model
from llm_serving.service.files import FileStore
from llm_serving.service.generation import GenerationDefaults
from llm_serving.service.loader import load_chat_model
from llm_serving.service.measuring import measure_model
from llm_serving.service.registry import LoadEncoder, LoadModel, MeasureModel, Registry
from llm_serving.service.reranking import RerankService
from llm_serving.service.responses import ResponseStore
from llm_serving.service.tokens import TokenService

if TYPE_CHECKING:
    from llm_serving.ops.trace_export import Tracing

logger = logging.getLogger(__name__)


def build_services(
    settings: Settings,
    load: LoadModel = load_chat_model,
    load_encoder: LoadEncoder = load_encoder_model,
    measure: MeasureModel = measure_model,
    tracing: Tracing | None = None,
) -> Services:
    """Wire everything; reads the key file, starts nothing. Raises: SettingsError."""
    registry = Registry(settings, load, load_encoder, measure)
    defaults = GenerationDefaults(
        max_tokens=settings.max_new_tokens, temperature=settings.temperature if settings.do_sample else 0.0
    )

    def read_engines() -> dict[str, EngineStats]:
        slots = registry.chatting()
        return {slot.name: slot.model.engine.stats() for slot in slots if slot.model is not None}

    def read_encoders() -> dict[str, BatcherStats]:
        slots = [slot for slot in registry.encoders() if slot.model is not None]
        return {slot.kind.value: slot.model.batcher.stats() for slot in slots if slot.model is not None}

    chat = ChatService(registry, defaults, settings.system_prompt)
    files = FileStore(settings.files_dir, settings.files_bytes)
    return Services(
        settings=settings,
        registry=registry,
        chat=chat,
        completion=CompletionService(registry, defaults),
        embedding=EmbeddingService(registry),
        rerank=RerankService(registry),
        classification=ClassificationService(registry),
        tokens=TokenService(registry, chat),
        responses=ResponseStore(max_at_work=_max_at_work(settings)),
        files=files,
        batches=BatchStore(files, work_on, places=max(1, settings.max_concurrency // 2)),
        metrics=Metrics(lambda: registry.first.can_answer, read_engines, read_encoders),
        keys=KeyRing.from_settings(settings),
        tracing=tracing,
    )


def _max_at_work(settings: Settings) -> int:
    """Of one key in the background: half of the places, so that those who wait for an answer find one."""
    return max(1, (settings.max_concurrency + settings.max_queue) // 2)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load in the background from the start, drain at the stop signal, unload at the end.

    For any app: `FastAPI(lifespan=llm_serving.lifespan)`. One that `create_app` did not make gets services by
    the environment's settings. Meanwhile `generate_response` and `embed_texts` work, from every thread.
    Raises: SettingsError.
    """
    services: Services | None = getattr(app.state, "services", None)
    is_ours = services is None
    if services is None:
        services = app.state.services = build_services(Settings())
    elif services.keys.is_open and not is_loopback(services.settings.host):
        logger.warning("listening on %s without an API key: set --api-key", services.settings.host)
    # An engine's thread wants the GIL for some microseconds between two steps. With Python's 5 ms it stood
    # still that long whenever the event loop was busy.
    sys.setswitchinterval(0.0005)
    if services.tracing is not None:
        services.tracing.start()
    services.registry.start()
    services.batches.start(partial(_ask, app, services), is_lasting=services.settings.files_dir is not None)
    try:
        on_signals = on_stop_signal(partial(_begin_close, services))
        with stacks_on_signal(), on_signals, announced(Running.here(services)):
            try:
                yield
            finally:
                await services.batches.close()
                await services.registry.close()
                await services.responses.close()
    finally:
        services.files.close()
        if services.tracing is not None:
            await services.tracing.stop()
        if is_ours:  # a closed registry cannot be started again; the next life gets its own
            del app.state.services


def _begin_close(services: Services) -> None:
    services.batches.stop()
    services.registry.begin_close()


async def _ask(app: FastAPI, services: Services, owner: str, line: BatchLine) -> Asked:
    """What the app answers to a line of this owner's batch."""
    place = services.keys.place_of(owner)
    if place is None:
        gone = AuthError("The API key with which this batch was made is none of this server's any more.")
        return Asked(401, error_body(gone))
    await services.registry.first.settled()  # at a start batches are there before models are
    return await ask_app(app, line, place)
