"""A running generation → the HTTP answer: a stream, or its fold. It is left when the client leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.convert.answer import Head, head_of
from llm_serving.api.deps import services_of
from llm_serving.api.disconnect import until_disconnect
from llm_serving.api.json_response import JsonResponse
from llm_serving.api.sse import Chunks, EventStream
from llm_serving.ops.metrics import Metrics
from llm_serving.service.generation import Generation

MakeFrames = Callable[[Head, Generation], Chunks]
ToResponse = Callable[[Head, Generation], Awaitable[dict[str, Any]]]


async def respond(
    request: Request,
    generation: Generation,
    request_id: str,
    headers: dict[str, str],
    make_frames: MakeFrames | None,
    to_response: ToResponse,
    *,
    is_stream: bool,
    stream_class: type[EventStream] = EventStream,
) -> Response:
    """Stream, or wait for the end, as they all do that have no frames. Takes `generation` over."""
    services = services_of(request)
    headers = headers | left_out(generation)
    head = head_of(generation, request_id)
    state = request.scope["state"]
    state.update(generation=generation, response_id=head.id, is_stream=is_stream)

    def conclude() -> None:
        state["log"].update(concluded(generation, services.metrics))

    if is_stream and make_frames is not None:
        frames = make_frames(head, generation)
        heartbeat_s = services.settings.heartbeat_s
        return stream_class(generation, frames, heartbeat_s=heartbeat_s, on_end=conclude, headers=headers)
    try:
        async with generation:
            answer = await until_disconnect(request.receive, _collect(to_response, head, generation))
    finally:
        conclude()
    return JsonResponse(answer, headers=headers)


def left_out(generation: Generation) -> dict[str, str]:
    """The header that tells of messages which the prompt is without."""
    return {"x-truncated-messages": str(generation.num_left_out)} if generation.num_left_out else {}


async def _collect(to_response: ToResponse, head: Head, generation: Generation) -> dict[str, Any]:
    return await to_response(head, generation)


def concluded(generation: Generation, metrics: Metrics) -> dict[str, object]:
    """Facts that came with the last events: to the metrics, and for the log."""
    for event in generation.finals.values():
        metrics.observe(event, generation.name)
    usage = generation.usage()
    facts: dict[str, object] = {
        "model": generation.name,
        "prompt": usage.num_prompt,
        "cached": usage.num_cached,
        "completion": usage.num_completion,
    }
    if len(generation.finals) < generation.num_choices:
        facts["unfinished"] = generation.num_choices - len(generation.finals)
    if generation.num_left_out:
        facts["truncated"] = generation.num_left_out
    return facts
