"""Errors → HTTP: one table, one body. `{"error": {"message", "type", "param", "code"}}`, as OpenAI has it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from llm_serving.errors import (
    AuthError,
    BatchNotKept,
    ContextLengthExceeded,
    EngineDead,
    FileNotKept,
    Forbidden,
    ForeignPage,
    InvalidRequest,
    ModelLoading,
    ModelNotFound,
    ModelUnavailable,
    Overloaded,
    RequestCancelled,
    ResponseNotFound,
    ServingError,
    TemplateError,
    UnsupportedParameter,
)


class BodyTooLarge(InvalidRequest):
    """The body is larger than the server takes."""

    def __init__(self, limit: int, remedy: str = "Send less, or raise --max-body-bytes.") -> None:
        super().__init__(f"The request body is larger than {limit} bytes. {remedy}")


class BodyStalled(InvalidRequest):
    """Nothing came of a body that is not whole, for as long as anybody waits."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Nothing of the request's body came for {seconds:g} seconds. Send it again.")


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """How one type of error looks on the wire."""

    status: int
    type: str
    code: str | None
    param: str | None = None  # where the error itself names none


INVALID = "invalid_request_error"
INTERNAL = ErrorKind(500, "server_error", "internal_error")

ERRORS: dict[type[BaseException], ErrorKind] = {
    BodyTooLarge: ErrorKind(413, INVALID, "request_too_large"),
    BodyStalled: ErrorKind(408, INVALID, "request_timeout"),
    ContextLengthExceeded: ErrorKind(400, INVALID, "context_length_exceeded"),
    UnsupportedParameter: ErrorKind(400, INVALID, "unsupported_parameter"),
    TemplateError: ErrorKind(400, INVALID, "template_error"),
    InvalidRequest: ErrorKind(400, INVALID, "invalid_value"),
    AuthError: ErrorKind(401, INVALID, "invalid_api_key"),
    Forbidden: ErrorKind(403, INVALID, "api_key_required"),
    ForeignPage: ErrorKind(403, INVALID, "origin_not_allowed"),
    ModelNotFound: ErrorKind(404, INVALID, "model_not_found", "model"),
    ResponseNotFound: ErrorKind(404, INVALID, "response_not_found"),
    FileNotKept: ErrorKind(404, INVALID, "file_not_found"),
    BatchNotKept: ErrorKind(404, INVALID, "batch_not_found"),
    ModelLoading: ErrorKind(503, "server_error", "model_loading"),
    ModelUnavailable: ErrorKind(503, "server_error", "model_unavailable"),
    Overloaded: ErrorKind(429, "rate_limit_error", "overloaded"),
    RequestCancelled: ErrorKind(503, "server_error", "cancelled"),
    EngineDead: ErrorKind(503, "server_error", "engine_dead"),
    ServingError: ErrorKind(500, "server_error", "serving_error"),
}


def kind_of(error: BaseException) -> ErrorKind:
    """The table's entry of the nearest base class."""
    return next((ERRORS[base] for base in type(error).__mro__ if base in ERRORS), INTERNAL)


def note_error(scope: Scope, error: BaseException) -> None:
    """Leave the code of `error` with the request, for whoever looks at it when it is over."""
    kind = kind_of(error)
    scope["state"]["error"] = kind.code or kind.type


def error_message(error: BaseException, request_id: str = "") -> str:
    """What is said of an error. What is not ours says nothing but the id under which the log has it."""
    if isinstance(error, ServingError):
        return str(error)
    return f"Something went wrong inside the server. The log has it under request id {request_id}."


def error_body(error: BaseException, request_id: str = "") -> bytes:
    """The JSON of an error."""
    kind = kind_of(error)
    message = error_message(error, request_id)
    return _body(message, kind.type, getattr(error, "param", kind.param), kind.code)


def error_response(error: BaseException, request_id: str = "", body: bytes | None = None) -> Response:
    """The whole answer, `Retry-After` and `WWW-Authenticate` where they belong; `body` is another API's."""
    kind = kind_of(error)
    headers = {}
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is None and kind.status == 503:
        retry_after_s = 5
    if retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(retry_after_s)))
    if kind.status == 401:
        headers["www-authenticate"] = "Bearer"
    if kind.status in (408, 413):
        headers["connection"] = "close"
    content = error_body(error, request_id) if body is None else body
    return Response(content, kind.status, headers, "application/json")


_NO_OBJECT = frozenset(
    ("dict_type", "model_type")
)  # what pydantic calls objects by the names of Python's types

_KIND = re.compile(r"^(Input|List|Dictionary|String) should")  # of value, whose name is said instead


def invalid_request(errors: Sequence[Any]) -> InvalidRequest:
    """pydantic's findings → one error that names the first wrong field by its dotted path."""
    first = errors[0]
    param = ".".join(str(part) for part in first["loc"] if part != "body") or None
    message = _KIND.sub("should", str(first["msg"]).removeprefix("Value error, "))
    message = message.replace(" after validation", "")
    if first["type"] == "missing":
        message = "is required."
    elif first["type"] in _NO_OBJECT:
        message = "must be an object."
    return InvalidRequest(f"'{param}' {message[0].lower()}{message[1:]}" if param else message, param)


def from_validation(error: ValidationError) -> InvalidRequest:
    """As `invalid_request`, from pydantic's exception."""
    return invalid_request(error.errors(include_url=False, include_input=False, include_context=False))


def install_error_handlers(app: FastAPI) -> None:
    """Every error an app can answer with leaves in OpenAI's shape."""

    async def ours(request: Request, error: Exception) -> Response:
        return error_response(error, request.scope["state"]["request_id"])

    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return error_response(invalid_request(error.errors()))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return http_error_response(request, error)

    app.add_exception_handler(Exception, ours)
    app.add_exception_handler(ServingError, ours)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)


def http_error_response(request: Request, error: HTTPException) -> Response:
    """Unknown paths and wrong methods."""
    where = f"{request.method} {request.scope['path'][:200]}"  # `request.url` believes the Host header
    message, code = {
        404: (f"There is no {where}.", "not_found"),
        405: (f"{where} is not allowed here.", "method_not_allowed"),
    }.get(error.status_code, (str(error.detail), None))
    kind = INVALID if error.status_code < 500 else "server_error"
    return Response(_body(message, kind, None, code), error.status_code, error.headers, "application/json")


def _body(message: str, kind: str, param: str | None, code: str | None) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})
