"""The composition root: settings in, app out. Nothing is loaded before the lifespan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from llm_serving.api.browsers import BrowserGuard
from llm_serving.api.dispatch import Dispatch
from llm_serving.api.errors import install_error_handlers
from llm_serving.api.lifespan import build_services, lifespan
from llm_serving.api.middleware import BodyLimit, RequestMiddleware
from llm_serving.api.routes import install_routes, routes_of
from llm_serving.config import Settings
from llm_serving.ops.auth import is_loopback
from llm_serving.ops.tracing import open_tracing
from llm_serving.service.encoder_loader import load_encoder_model
from llm_serving.service.files import MAX_FILE_BYTES
from llm_serving.service.loader import load_chat_model
from llm_serving.service.measuring import measure_model
from llm_serving.service.registry import LoadEncoder, LoadModel, MeasureModel

if TYPE_CHECKING:
    from llm_serving.ops.trace_export import Tracing

# FastAPI's own sees nothing but what goes past our dispatch.
_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


_FILES, _FORM = ("/files", "/v1/files"), 1 << 16  # bytes of a form beside its file
TEXTS, PHOTOS = 4 << 20, 20 << 20  # bytes of a request, where nobody says how many


class App(FastAPI):
    """FastAPI behind our own middleware, which answers most requests without any of the framework's.

    `front` is what a request meets first; middleware that is added stands before it.
    """

    front: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self.front(scope, receive, send)

    def add_middleware(self, middleware_class: Any, *args: Any, **kwargs: Any) -> None:
        """As Starlette's, also once requests have been answered."""
        self.front = middleware_class(self.front, *args, **kwargs)

    async def behind(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The framework's own way."""
        await super().__call__(scope, receive, send)


def create_app(
    settings: Settings | None = None,
    *,
    load: LoadModel = load_chat_model,
    load_encoder: LoadEncoder = load_encoder_model,
    measure: MeasureModel = measure_model,
    tracing: Tracing | None = None,
) -> App:
    """The server as an ASGI app; without `settings` the environment is read, here and once.

    `load` and `load_encoder` make the models, `measure` tells what one will take of the memory where there
    are further models: they are called on threads of their own, from the start of the app on.
    `tracing` gets the spans, else what settings and environment ask for. Raises: SettingsError, MissingExtra.
    """
    settings = settings or Settings()
    given = settings.max_body_bytes
    tracing = tracing or open_tracing(settings)
    services = build_services(settings, load, load_encoder, measure, tracing)
    services.files.open()
    routes = routes_of(settings)
    app = App(
        title="llm-serving",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        telemetry=_NO_TELEMETRY,
    )
    app.router.redirect_slashes = False
    app.state.services = services
    install_error_handlers(app)
    install_routes(app, routes)

    def body_limit(path: str) -> BodyLimit:
        if path in _FILES:
            return BodyLimit(min(MAX_FILE_BYTES, settings.files_bytes) + _FORM, "Split the file.")
        return BodyLimit(given or (PHOTOS if services.registry.reads_images() else TEXTS))

    app.front = RequestMiddleware(
        BrowserGuard(Dispatch(app.behind, routes), settings.allowed_origins, is_open=services.keys.is_open),
        metrics=services.metrics,
        body_limit=body_limit,
        warn_strangers=services.keys.is_open and is_loopback(settings.host),
        tracing=tracing,
    )
    return app
