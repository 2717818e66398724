"""Pages of other sites, which a browser lets ask a server on its user's machine: which may."""

from __future__ import annotations

import re
import socket
from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from llm_serving.api.errors import error_response, note_error
from llm_serving.errors import ForeignPage
from llm_serving.ops.auth import is_loopback

# Pages on this machine, and programs that are made as pages: nobody else can be one.
_OWN = re.compile(
    r"https?://(localhost|127\.0\.0\.1|\[::1\]|[a-z0-9-]+\.localhost)(:\d+)?"
    r"|(app|tauri|vscode-webview|vscode-file|chrome-extension|moz-extension)://[^\s/]*"
)
_LOCAL = (".localhost", ".local", ".internal")  # domains that nobody can register
_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
_TOLD = ("x-request-id", "x-ignored-parameters", "x-truncated-messages", "retry-after")


class BrowserGuard:
    """ASGI middleware, inside of what gives requests their ids. What browsers do not send passes as it is.

    Pages of this machine and of `origins` ("*": all) read answers (CORS). On a server without keys a page of
    another origin can make nothing happen, which it could without reading the answer; nor can one whose name
    was made to lead to this machine (DNS rebinding), which a browser takes for a page of this server.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str], *, is_open: bool) -> None:
        self._app = app
        self._is_open = is_open
        self._origins = frozenset(origin.rstrip("/") for origin in origins)
        self._hosts = frozenset(urlsplit(origin).hostname for origin in self._origins)
        self._sharing = CORSMiddleware(
            app,
            allow_origins=sorted(self._origins),
            allow_origin_regex=_OWN.pattern,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_TOLD,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        origin = host = ""
        for name, value in scope["headers"]:
            if name == b"origin":
                origin = value.decode("latin-1")
            elif name == b"host":
                host = value.decode("latin-1").lower()
        if self._is_open and "*" not in self._origins and self._is_foreign(scope, origin, host):
            error = ForeignPage(origin or f"http://{host}")
            note_error(scope, error)
            await error_response(error, scope["state"]["request_id"])(scope, receive, send)
            return
        await (self._sharing if origin else self._app)(scope, receive, send)

    def _is_foreign(self, scope: Scope, origin: str, host: str) -> bool:
        if origin and scope["method"] not in _SAFE:
            is_same = origin.lower().partition("://")[2] == host
            if not (is_same or origin in self._origins or _OWN.fullmatch(origin)):
                return True
        # Only what came from this machine to this machine: others have no reason to call it so.
        if not host or not (_is_here(scope.get("server")) and _is_here(scope.get("client"))):
            return False
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return True
        return _may_lead_anywhere(name) and name not in self._hosts


def _may_lead_anywhere(name: str) -> bool:
    """Whether somebody elsewhere may have made this name lead here: it has a domain, and is no address."""
    if "." not in name or name.endswith(_LOCAL) or name == socket.gethostname().lower():
        return False
    try:
        ip_address(name)
    except ValueError:
        return True
    return False


def _is_here(address: tuple[str, int | None] | None) -> bool:
    return address is not None and is_loopback(address[0])
