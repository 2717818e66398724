"""A cluster on this machine: two replicas on the fake engine behind Ray's proxy."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own, when it is imported
    pytest.importorskip("ray.serve", reason="needs ray; run it with: make cluster")

import httpx
import openai
import orjson
import ray
from fake_server import data_of, fake_encoder_loader, fake_loader
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.app import App, create_app
from llm_serving.config import Settings
from llm_serving.deploy.plan import plan
from llm_serving.deploy.ray_serve import application, build
from llm_serving.deploy.replica import ReplicaApp

pytestmark = pytest.mark.filterwarnings("default")

REPLICAS = {"engine": "fake", "threads": "1", "num_replicas": "2", "drain_s": "10"}
Run = Callable[..., str]
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 << 20,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},  # replicas import this module
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()


@pytest.fixture
def run(address: str) -> Iterator[Run]:
    """Deploys an application; its address when all replicas can answer."""
    names = []

    def start(app: serve.Application, name: str = "default") -> str:
        names.append(name)
        serve.run(app, name=name)
        return address

    yield start
    for name in names:
        serve.delete(name)


def endless(settings: Settings, **behaviour: Any) -> App:
    """A server that writes fifty tokens a second until its limit, and says at /who which process it is."""

    async def who(request: Request) -> Response:
        await asyncio.sleep(0.1)  # so that others who ask meet the other replica
        return Response(orjson.dumps({"pid": os.getpid(), "running": slot.get().engine.stats().num_running}))

    load = fake_loader(random=True, step_seconds=0.02, **behaviour)
    app = create_app(settings, load=load, load_encoder=fake_encoder_loader())
    slot = app.state.services.registry.default
    app.add_route("/who", who)
    return app


def mortal(settings: Settings) -> App:
    """The same with an engine that dies in its tenth step."""
    return endless(settings, fail_at_step=10)


def replicas(make: Callable[[Settings], App], **arguments: str) -> serve.Application:
    planned = plan({**REPLICAS, **arguments})
    return application(planned, ReplicaApp(planned.settings, make=make))


def who(url: str) -> tuple[int, int] | None:
    with contextlib.suppress(httpx.TransportError, ValueError, KeyError):
        one = httpx.get(f"{url}/who", timeout=10).json()
        return one["pid"], one["running"]
    return None


def look(url: str, until: Callable[[dict[int, int]], bool], within_s: float = 60) -> dict[int, int]:
    """Process → sequences running, of replicas that answer, once `until` holds of it."""
    deadline_s = time.monotonic() + within_s
    while True:
        with ThreadPoolExecutor(8) as pool:
            seen = dict(one for one in pool.map(who, [url] * 8) if one)
        if until(seen):
            return seen
        assert time.monotonic() < deadline_s, seen
        time.sleep(0.2)


def both(seen: dict[int, int]) -> bool:
    return len(seen) == 2


def test_the_official_client(run: Run) -> None:
    url = run(build(REPLICAS))
    client = openai.OpenAI(api_key="x", base_url=f"{url}/v1", max_retries=0)
    answer = client.chat.completions.with_raw_response.create(model="m", **CHAT)
    assert answer.parse().choices[0].message.content
    assert len(answer.headers.get_list("x-request-id")) == 1
    chunks = list(client.chat.completions.create(model="m", stream=True, **CHAT))
    assert len(chunks) > 3
    assert chunks[-1].choices[0].finish_reason
    assert len(client.embeddings.create(model="m", input=["one", "two"]).data) == 2
    refused = httpx.post(f"{url}/v1/chat/completions", json={"messages": []})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages")


def test_streams_flow_and_who_leaves_ends_the_work(run: Run) -> None:
    url = run(replicas(endless))
    body = {**CHAT, "max_tokens": 4000, "stream": True}
    with httpx.stream("POST", f"{url}/chat/completions", json=body, timeout=30) as stream:
        lines = stream.iter_lines()
        assert all(next(lines) is not None for _ in range(8))  # of a stream that ends in 80 s
        assert sum(look(url, both).values()) == 1
    look(url, lambda seen: both(seen) and not any(seen.values()))
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/chat/completions", json={**body, "stream": False}, timeout=1)
    look(url, lambda seen: both(seen) and not any(seen.values()))


def ask(url: str, is_stream: bool) -> str:
    """ "complete", or how it failed."""
    body = {**CHAT, "max_tokens": 20, "stream": is_stream}
    try:
        answer = httpx.post(f"{url}/chat/completions", json=body, timeout=60)
    except httpx.RemoteProtocolError:
        return "broken off"
    if answer.status_code != 200:
        return str(answer.status_code)
    return "complete" if not is_stream or data_of(answer.text)[-1] == "[DONE]" else "cut"


def test_a_replica_that_is_killed_comes_back(run: Run) -> None:
    url = run(replicas(endless))
    before = look(url, both)
    killed = min(before)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, url, i % 2 == 0) for i in range(96)]
        while sum(one.done() for one in asked) < 16:
            time.sleep(0.05)
        os.kill(killed, signal.SIGKILL)
        outcomes = Counter(one.result() for one in asked)
    assert set(outcomes) <= {"complete", "broken off", "500", "503"}, outcomes
    assert outcomes["complete"] >= 80
    after = look(url, both)
    assert killed not in after
    assert set(before) & set(after)


def test_a_replica_whose_engine_died_is_replaced(run: Run) -> None:
    url = run(replicas(mortal, num_replicas="1"))
    (before,) = look(url, lambda seen: len(seen) == 1)
    answer = httpx.post(f"{url}/chat/completions", json=CHAT, timeout=60)
    assert answer.status_code == 503
    assert "engine stopped working" in answer.json()["error"]["message"]
    look(url, lambda seen: len(seen) == 1 and before not in seen)


def test_what_runs_at_the_end_is_finished(run: Run) -> None:
    url = run(replicas(endless, num_replicas="1"))
    body = {**CHAT, "stream": True}  # 2 s
    with httpx.stream("POST", f"{url}/chat/completions", json=body, timeout=30) as stream:
        lines = stream.iter_lines()
        assert next(lines)
        ending = threading.Thread(target=serve.delete, args=("default",))
        ending.start()
        assert [line for line in lines if line][-1] == "data: [DONE]"
        ending.join(30)
    assert httpx.get(f"{url}/ready").status_code == 404


def test_a_session_stays_on_its_replica(run: Run) -> None:
    router = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
    # Ray's proxies keep the router they have for a name.
    url = run(build({**REPLICAS, "request_router_class": router}), name="sessions")
    for session in range(6):
        headers = {"x-session-id": f"session {session}"}
        first = httpx.post(f"{url}/responses", json={"input": "Hello"}, headers=headers).json()
        again = {"input": "And?", "previous_response_id": first["id"]}
        for _ in range(3):
            answer = httpx.post(f"{url}/responses", json=again, headers=headers)
            assert answer.status_code == 200, answer.text
