"""`/files`: what batches read, and what they made."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive

from llm_serving.api.convert.batches import file_object
from llm_serving.api.convert.paging import page_of
from llm_serving.api.deps import owner_of, services_of, validate
from llm_serving.api.json_response import JsonResponse
from llm_serving.api.schemas.batches import FileFields
from llm_serving.api.schemas.neutral import ignored_fields
from llm_serving.errors import InvalidRequest
from llm_serving.service.files import KEPT_S, MAX_FILES, MAX_NAME, FileStore, Incoming, new_file_id

_PIECE = 1 << 20


async def create_file(request: Request) -> Response:
    """Keep what a form brings as `file`."""
    files = services_of(request).files
    length = request.headers.get("content-length", "")
    expected = int(length) if length.isascii() and length.isdigit() else 1
    try:
        with files.incoming(expected) as incoming:
            counted = Request(request.scope, _counted(request, files, incoming))
            async with counted.form(max_files=1, max_fields=16) as form:
                return await _keep(request, form, incoming.path)
    except HTTPException as error:  # as Starlette tells of a form that is none
        raise InvalidRequest(f"The body is no form with a file: {error.detail}") from None


def _counted(request: Request, files: FileStore, incoming: Incoming) -> Receive:
    """The request's body, counted as it comes: it lies in the system's temporary folder until it is whole."""

    async def receive() -> Message:
        message = await request.receive()
        try:
            files.take(incoming, len(message.get("body", b"")))
        except InvalidRequest:
            while message.get("more_body"):  # or the client, which still sends, does not hear why
                message = await request.receive()
            raise
        return message

    return receive


async def _keep(request: Request, form: FormData, path: Path) -> Response:
    services = services_of(request)
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise InvalidRequest("'file' is required, as a part of a form (multipart/form-data).", "file")
    told = {name: value for name, value in form.items() if name != "file"}
    fields = validate(FileFields, _nested(told))
    strict = services.settings.strict_parameters
    headers = ignored_fields(fields.unknown_fields(), {}, strict=strict)
    kept_s = fields.expires_after.seconds if fields.expires_after else KEPT_S
    name = (upload.filename or "batch.jsonl")[:MAX_NAME]
    await run_in_threadpool(_copy, upload, path)
    file = services.files.adopt(path, new_file_id(), owner_of(request), name, fields.purpose, kept_s)
    return JsonResponse(file_object(file), headers=headers)


async def list_files(request: Request) -> Response:
    """The latest first; `purpose` tells only those."""
    purpose = request.query_params.get("purpose")
    files = services_of(request).files.all_of(owner_of(request))
    told = [file_object(file) for file in files if purpose in (None, file.purpose)]
    return JsonResponse(page_of(told, request.query_params, limit=MAX_FILES, most=MAX_FILES))


async def get_file(request: Request) -> Response:
    return JsonResponse(file_object(services_of(request).files.get(owner_of(request), _file_id(request))))


async def get_file_content(request: Request) -> Response:
    """Its bytes."""
    files = services_of(request).files
    file = files.get(owner_of(request), _file_id(request))
    return FileResponse(files.path(file), media_type="application/jsonl", filename=file.filename)


async def delete_file(request: Request) -> Response:
    """Forget it. A batch that reads it already goes on."""
    files = services_of(request).files
    file = files.get(owner_of(request), _file_id(request))
    files.remove(file)
    return JsonResponse({"id": file.id, "object": "file", "deleted": True})


def _file_id(request: Request) -> str:
    return str(request.path_params["file_id"])


def _copy(upload: UploadFile, path: Path) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        shutil.copyfileobj(upload.file, file, _PIECE)


def _nested(fields: dict[str, Any]) -> dict[str, Any]:
    """`expires_after[seconds]` → `{"expires_after": {"seconds": …}}`, as clients write objects in forms."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        outer, bracket, inner = name.partition("[")
        if bracket and inner.endswith("]"):
            group = found.setdefault(outer, {})
            if isinstance(group, dict):
                group[inner[:-1]] = value
        else:
            found[name] = value
    return found
