"""`GET /`, a sentence for programs and the playground for browsers, and the files of the playground."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.deps import services_of
from llm_serving.web.static_files import PAGE, StaticFile, static_files

ROOT = "llm-serving is running. OpenAI's API is at /v1, Anthropic's at /v1/messages, Ollama's at /api.\n"
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    # Asked for again each time, and sent again only when changed: names do not tell versions.
    "cache-control": "no-cache",
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


async def get_root(request: Request) -> Response:
    """Ollama's clients look here whether anybody is in; people with a browser get the playground."""
    vary = {"vary": "Accept"}
    settings = services_of(request).settings
    if settings.playground and settings.model_name and _accepts_html(request):
        return _answer(request, static_files()[PAGE], vary)
    return Response(ROOT, headers=vary, media_type="text/plain")


def static_endpoint(file: StaticFile) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that answers with `file`."""

    async def get_file(request: Request) -> Response:
        return _answer(request, file, {})

    return get_file


def _answer(request: Request, file: StaticFile, more_headers: dict[str, str]) -> Response:
    headers = {**HEADERS, **more_headers, "etag": file.etag}
    if _has(request, file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers={**headers, "content-type": file.media_type})


def _has(request: Request, etag: str) -> bool:
    """Whether the client has these very bytes."""
    known = ",".join(request.headers.getlist("if-none-match"))
    return any(each.strip().removeprefix("W/") in (etag, "*") for each in known.split(","))


def _accepts_html(request: Request) -> bool:
    """Whether `text/html` is named. Programs send `*/*`, or nothing: they want the sentence."""
    for item in ",".join(request.headers.getlist("accept")).lower().split(","):
        media_type, *parameters = (part.strip() for part in item.split(";"))
        if media_type == "text/html":
            return not any(_is_zero_weight(each) for each in parameters)
    return False


def _is_zero_weight(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return name.strip() == "q" and value.strip().rstrip("0") in ("", "0.", ".")
