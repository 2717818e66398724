"""Group `auth`: only where a key was given."""

from __future__ import annotations

from typing import Any

from llm_serving.cli.conformance.check import Check, Skipped, expect
from llm_serving.cli.conformance.server import ASK, CHAT, MISSING, Answer, Server

_SOURCE = "OpenAI's guide to error codes, 401"
_WRONG = "sk-wrong-5f1c"
_LEAST_KEY = 8  # characters of a key that no other text has in it by chance


async def _ask(server: Server, path: str, key: str) -> Answer:
    if not server.api_key:
        raise Skipped("no --api-key was given")
    bodies: dict[str, dict[str, Any]] = {
        CHAT: {"messages": ASK},
        "/completions": {"prompt": "One,"},
        "/responses": {"input": "One,", "store": False},
        "/embeddings": {"input": "One"},
    }
    model = server.embedding_model if path == "/embeddings" else server.model
    if path in bodies:
        bound = {} if path == "/embeddings" else {"max_output_tokens" if "resp" in path else "max_tokens": 1}
        return await server.ask("POST", path, {"model": model, **bodies[path], **bound}, key=key)
    return await server.ask("GET", path, key=key)


async def _is_asked(server: Server) -> bool:
    """Whether the server asks for keys where it works."""
    path = CHAT if server.model else "/embeddings"
    return await server.once("key", lambda: _refuses(server, path))


async def _refuses(server: Server, path: str) -> bool:
    return (await _ask(server, path, _WRONG)).status != 200


def _guarded(path: str) -> Check:
    async def run(server: Server) -> str:
        answer = await _ask(server, path, _WRONG)
        if answer.status in MISSING:
            raise Skipped("no such route")
        if answer.status == 200:
            if path == "/models":
                raise Skipped("the list of models is open to all")
            if not await _is_asked(server):
                raise Skipped("the server asks for no key")
        expect(answer.status == 401, str(answer))
        return ""

    return Check(
        f"wrong key at {path[1:].removesuffix('/completions')}", "A wrong key is a 401.", _SOURCE, run
    )


async def _no_key(server: Server) -> str:
    path = CHAT if server.model else "/embeddings"
    answer = await _ask(server, path, "")
    if answer.status == 200 and not await _is_asked(server):
        raise Skipped("the server asks for no key")
    expect(answer.status == 401, str(answer))
    return ""


async def _error_body(server: Server) -> str:
    path = CHAT if server.model else "/embeddings"
    answer = await _ask(server, path, _WRONG)
    if answer.status == 200:
        raise Skipped("the server asks for no key")
    error = answer.json().get("error")
    expect(isinstance(error, dict) and error.get("message"), f"no error.message in {answer}")
    key = server.api_key or ""
    is_told = len(key) >= _LEAST_KEY and key in answer.body.decode("utf-8", "replace")
    expect(not is_told, "the answer has the right key in it")
    return ""


CHECKS = (
    *(_guarded(path) for path in (CHAT, "/completions", "/responses", "/embeddings", "/models")),
    Check("no key", "No key at all is a 401.", _SOURCE, _no_key),
    Check("error body", "The 401 has an object error with a message.", _SOURCE, _error_body),
)
