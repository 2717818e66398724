"""The composition root: settings in, app out. Nothing is loaded before the lifespan."""

from __future__ import annotations

from fastapi import FastAPI

from llm_serving.api.dispatch import Dispatch
from llm_serving.api.errors import install_error_handlers
from llm_serving.api.lifespan import build_services, lifespan
from llm_serving.api.middleware import RequestMiddleware
from llm_serving.api.routes import ROUTES, install_routes
from llm_serving.config import Settings
from llm_serving.ops.auth import is_loopback
from llm_serving.service.encoder_loader import load_encoder_model
from llm_serving.service.loader import load_chat_model
from llm_serving.service.registry import LoadEncoder, LoadModel


def create_app(
    settings: Settings | None = None,
    *,
    load: LoadModel = load_chat_model,
    load_encoder: LoadEncoder = load_encoder_model,
) -> FastAPI:
    """The server as an ASGI app; without `settings` the environment is read, here and once.

    `load` and `load_encoder` make the models: they are called on threads of their own when the app starts.
    Raises: SettingsError.
    """
    services = build_services(settings or Settings(), load, load_encoder)
    app = FastAPI(title="llm-serving", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.router.redirect_slashes = False
    app.state.services = services
    install_error_handlers(app)
    install_routes(app)
    app.add_middleware(Dispatch, routes=ROUTES)
    app.add_middleware(
        RequestMiddleware,
        metrics=services.metrics,
        max_body_bytes=services.settings.max_body_bytes,
        warn_strangers=services.keys.is_open and is_loopback(services.settings.host),
    )
    return app
