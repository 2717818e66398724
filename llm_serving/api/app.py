"""The composition root: settings in, app out. Nothing is global; nothing is loaded before the lifespan."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from fastapi import FastAPI

from llm_serving.api.deps import Services
from llm_serving.api.errors import install_error_handlers
from llm_serving.api.middleware import RequestMiddleware
from llm_serving.api.routes import install_routes
from llm_serving.config import Settings
from llm_serving.engine.protocol import EngineStats
from llm_serving.ops.auth import KeyRing, is_loopback
from llm_serving.ops.drain import on_stop_signal
from llm_serving.ops.metrics import Metrics
from llm_serving.service.chat import ChatService
from llm_serving.service.completion import CompletionService
from llm_serving.service.generation import GenerationDefaults
from llm_serving.service.loader import load_chat_model
from llm_serving.service.registry import LoadModel, Registry

logger = logging.getLogger(__name__)


def create_app(settings: Settings | None = None, *, load: LoadModel = load_chat_model) -> FastAPI:
    """The server as an ASGI app; without `settings` the environment is read, here and once.

    `load` makes the model: it is called with the settings on a thread of its own when the app starts.
    Raises: SettingsError.
    """
    services = build_services(settings or Settings(), load)
    app = FastAPI(title="llm-serving", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.router.redirect_slashes = False
    app.state.services = services
    install_error_handlers(app)
    install_routes(app)
    app.add_middleware(
        RequestMiddleware,
        metrics=services.metrics,
        max_body_bytes=services.settings.max_body_bytes,
        warn_strangers=services.keys.is_open and is_loopback(services.settings.host),
    )
    return app


def build_services(settings: Settings, load: LoadModel) -> Services:
    """Wire everything; reads the key file, starts nothing."""
    registry = Registry(settings, load)
    defaults = GenerationDefaults(
        max_tokens=settings.max_new_tokens, temperature=settings.temperature if settings.do_sample else 0.0
    )

    def read_stats() -> EngineStats | None:
        model = registry.default.model
        return None if model is None else model.engine.stats()

    return Services(
        settings=settings,
        registry=registry,
        chat=ChatService(registry, defaults, settings.system_prompt),
        completion=CompletionService(registry, defaults),
        metrics=Metrics(read_stats),
        keys=KeyRing.from_settings(settings),
    )


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load in the background from the start, drain at the stop signal, unload at the end."""
    services = cast(Services, app.state.services)
    if services.keys.is_open and not is_loopback(services.settings.host):
        logger.warning("listening on %s without an API key: set --api-key", services.settings.host)
    services.registry.start()
    with on_stop_signal(services.registry.begin_close):
        yield
        await services.registry.close()
