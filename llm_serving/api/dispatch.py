"""From a path to its endpoint in one look-up, ahead of the framework's own routing.

Matching, dependencies and exit stacks cost a short embedding more CPU time than its answer. What is not in
the table, other methods and paths with parameters included, goes on to the framework.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from llm_serving.api.routes import PREFIXES, Route


class Dispatch:
    """ASGI middleware over `routes`; each answers with and without `/v1`."""

    def __init__(self, app: ASGIApp, routes: Iterable[Route]) -> None:
        self._app = app
        self._routes = {
            (route.method, prefix + route.path): route
            for prefix in PREFIXES
            for route in routes
            if "{" not in route.path
        }
        # Monitors ask with HEAD; the server below leaves the body out.
        heads = {path: route for (method, path), route in self._routes.items() if method == "GET"}
        self._routes |= {("HEAD", path): route for path, route in heads.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        response = await route.answer(Request(scope, receive, send))
        await response(scope, receive, send)
