"""The server as Ray Serve runs it: an ASGI app that is sent to a machine and made there."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Message, Receive, Scope, Send

from llm_serving.api.app import App, create_app
from llm_serving.api.deps import Services
from llm_serving.config import Settings
from llm_serving.ops.log import configure_logging
from llm_serving.service.registry import Registry
from llm_serving.service.slot import ModelState


class ReplicaApp:
    """Holds nothing but `settings` until its lifespan starts, so it can be pickled.

    The start is complete when every model but the further ones has loaded, or failed to: until then Ray sends
    no requests. `make` is called where it starts.
    """

    def __init__(self, settings: Settings, make: Callable[[Settings], App] = create_app) -> None:
        self._settings = settings
        self._make = make
        self._app: App | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            configure_logging(self._settings.log_level)
            self._app = self._make(self._settings)
            send = _when_settled(self._registry, send)
        elif scope["type"] == "http":
            send = _without_id(send)
        await self._made(scope, receive, send)

    def check_health(self) -> None:
        """A replica that raises this when it has started, or three times later, is replaced by a new one.

        Further models are tried again by requests. Raises: RuntimeError with the reason, if any other failed
        to load or its engine died.
        """
        for slot in self._registry.starting():
            if slot.state is ModelState.FAILED:
                # Not one of our own errors: they cannot be unpickled, and Ray's controller does that.
                raise RuntimeError(f"The model '{slot.name}' failed: {slot.reason}")

    @property
    def _made(self) -> App:
        assert self._app is not None, "the lifespan comes first"
        return self._app

    @property
    def _registry(self) -> Registry:
        services: Services = self._made.state.services
        return services.registry


def _when_settled(registry: Registry, send: Send) -> Send:
    async def send_later(message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            for slot in registry.starting():
                await slot.settled()
        await send(message)

    return send_later


def _without_id(send: Send) -> Send:
    """Ray's proxy gave the request its id, if the client did not, and tells it; twice is once too often."""

    async def send_without(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
        await send(message)

    return send_without
