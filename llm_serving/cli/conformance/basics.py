"""Group `basics`: the list of models, health, and one whole answer."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from llm_serving.cli.conformance.check import Check, Skipped, expect, short
from llm_serving.cli.conformance.reading import FINISH_REASONS, check_usage
from llm_serving.cli.conformance.server import MISSING, Server


async def _listed(server: Server) -> list[dict[str, Any]]:
    answer = await server.ask("GET", "/models")
    if answer.status in MISSING:
        raise Skipped("no such route")
    expect(answer.status == 200, str(answer))
    body = answer.json()
    expect(body.get("object") == "list" and isinstance(body.get("data"), list), f"the list is {short(body)}")
    models: list[dict[str, Any]] = body["data"]
    return models


async def _models(server: Server) -> str:
    models = await _listed(server)
    expect(models, "an empty list")
    for model in models:
        expect(isinstance(model.get("id"), str) and model["id"], f"a model {short(model)}")
        expect(model.get("object") == "model", f"object is {model.get('object')!r}")
        expect(type(model.get("created")) is int, f"created is {model.get('created')!r}")
        expect(isinstance(model.get("owned_by"), str), f"owned_by is {model.get('owned_by')!r}")
    return f"{len(models)} listed"


async def _model(server: Server) -> str:
    model_id = (await _listed(server))[0]["id"]
    answer = await server.ask("GET", f"/models/{quote(model_id)}")
    if answer.status in MISSING:
        raise Skipped("no such route")
    expect(answer.status == 200, str(answer))
    expect(answer.json().get("id") == model_id, f"asked for '{model_id}': {answer}")
    return ""


async def _no_model(server: Server) -> str:
    await _model(server)
    answer = await server.ask("GET", "/models/no-such-model-5f1c")
    expect(answer.status == 404, str(answer))
    return ""


async def _health(server: Server) -> str:
    answer = await server.ask("GET", "/health", at_root=True)
    if answer.status in MISSING:
        raise Skipped("no such route")
    expect(answer.status == 200, str(answer))
    return ""


async def _whole(server: Server) -> str:
    answer = await server.once("whole", server.chat)
    expect(isinstance(answer.get("id"), str) and answer["id"], f"id is {answer.get('id')!r}")
    expect(answer.get("object") == "chat.completion", f"object is {answer.get('object')!r}")
    expect(type(answer.get("created")) is int, f"created is {answer.get('created')!r}")
    expect(isinstance(answer.get("model"), str) and answer["model"], f"model is {answer.get('model')!r}")
    (choice,) = answer["choices"]
    expect(choice.get("index") == 0, f"index is {choice.get('index')!r}")
    expect(choice.get("finish_reason") in FINISH_REASONS, f"finish_reason is {choice.get('finish_reason')!r}")
    message = choice["message"]
    expect(message.get("role") == "assistant", f"role is {message.get('role')!r}")
    content = message.get("content", 0)
    expect(content is None or isinstance(content, str), f"content is {short(content)}")
    return ""


async def _usage(server: Server) -> str:
    check_usage((await server.once("whole", server.chat)).get("usage"))
    return ""


async def _parts(server: Server) -> str:
    parts = [{"type": "text", "text": "Say"}, {"type": "text", "text": " hello."}]
    await server.chat(messages=[{"role": "user", "content": parts}], max_tokens=4)
    return ""


_CHAT = "OpenAI API reference, chat completions, the object"
CHECKS = (
    Check(
        "models",
        "A list of models with id, object, created, owned_by.",
        "OpenAI API reference, models",
        _models,
    ),
    Check("one model", "Each is found by its id.", "OpenAI API reference, models, retrieve", _model),
    Check("no such model", "Any other id is a 404.", "OpenAI API reference, models, retrieve", _no_model),
    Check(
        "health", "GET /health is a 200.", "llama.cpp's and vLLM's servers; orchestrators ask there", _health
    ),
    Check("whole answer", "A chat completion has the documented fields.", _CHAT, _whole),
    Check("usage", "usage counts prompt and answer, and adds up.", _CHAT, _usage),
    Check(
        "content parts",
        "A message may be a list of text parts.",
        "OpenAI API reference, chat completions, messages; templates that know texts only",
        _parts,
    ),
)
