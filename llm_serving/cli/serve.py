"""`llm-serving serve`: fetch the model if need be, then answer on HTTP until told to stop."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from types import FrameType
from typing import Any

import click

from llm_serving.cli.settings_options import read_settings, settings_options
from llm_serving.cli.terminal import fetch_progress
from llm_serving.config import Settings, flag_name
from llm_serving.errors import ServingError
from llm_serving.ops.auth import KeyRing

_OTHERS_S = 5.0  # that the load of another model may take when one has failed


@click.command("serve")
@click.argument("model", required=False)
@settings_options()
def command(model: str | None, **flags: Any) -> None:
    """Serve MODEL, a catalogue name or a path to a GGUF file, behind the OpenAI API.

    A flag beats its environment variable, which beats the default.
    """
    if model is not None and flags["model_name"] is not None:
        raise click.UsageError("Give the model once: as MODEL or as --model-name.")
    settings = read_settings(flags, **({"model_name": model} if model is not None else {}))
    has_key = not KeyRing.from_settings(settings).is_open
    with bind(settings.host, settings.port) as listener:
        _fetch(settings)
        host, port = listener.getsockname()[:2]
        _run(settings, listener, _announcement(settings, host, port, has_key))


def bind(host: str, port: int) -> socket.socket:
    """Take the address before anything is downloaded; clients are refused until the server listens.

    Raises: ServingError naming the address and the flag.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ServingError(
            f"{flag_name('host')} {host}: there is no such address here ({error.strerror})."
        ) from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        listener.close()
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            reason = "something else listens there; stop it, or choose another with --port"
        else:
            reason = getattr(error, "strerror", None) or str(error)
        raise ServingError(f"Cannot listen on {host} port {port}: {reason}.") from None
    return listener


def _fetch(settings: Settings) -> None:
    """In the foreground, where a bar can be seen; the app then finds the file in the cache.

    The catalogue's other models are fetched behind the running chat, further ones when they are asked for.
    Other names are looked at now, so that a wrong one ends the start.
    """
    if settings.engine == "fake":
        return
    from llm_serving.models import find_model, resolve_adapter
    from llm_serving.service.naming import find_path

    others = [*settings.encoders, *(name for name in settings.further_models if name)]
    before = [name for name in others if find_model(name) is None]
    draft = [settings.guessing_model] if settings.guessing_model else []
    for name in filter(None, [*before, *draft, settings.model_name]):
        with fetch_progress(name) as on_progress:
            find_path(name, settings, on_progress)
    for _, _, source in (item.partition("=") for item in settings.lora):
        with fetch_progress(source) as on_progress:
            resolve_adapter(source, on_progress)


def _announcement(settings: Settings, host: str, port: int, has_key: bool) -> str:
    from llm_serving.native.cpu import cpu_budget
    from llm_serving.service.naming import public_name

    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    url = f"http://[{local}]:{port}" if ":" in local else f"http://{local}:{port}"
    key = " -H 'Authorization: Bearer YOUR_KEY'" if has_key else ""
    threads = settings.threads or cpu_budget().threads
    engine = "fake" if settings.engine == "fake" else f"{settings.engine}, {threads} threads"
    models = [public_name(name) for name in (settings.model_name, *settings.encoders) if name]
    adapters = [item.partition("=")[0] for item in settings.lora]
    lines = [
        f"Model    {', '.join(models)}",
        *(
            [f"Further  {', '.join(map(public_name, settings.further_models))}"]
            if settings.further_models
            else []
        ),
        *([f"LoRA     {', '.join(adapters)}"] if adapters else []),
        *([f"Draft    {public_name(settings.guessing_model)}"] if settings.guessing_model else []),
        *([f"Eyes     {settings.mmproj.stem}"] if settings.mmproj else []),
        f"Engine   {engine}",
        f"Address  {url}  (OpenAI API: {url}/v1)",
        *([f"Chat     {url}  (in a browser)"] if settings.playground and settings.model_name else []),
        *_example(settings, f"{url}/v1", key),
    ]
    return "\n".join(lines)


def _example(settings: Settings, url: str, key: str) -> list[str]:
    """A request to try, for the model that there is."""
    if settings.model_name:
        path, body = "chat/completions", '{"messages": [{"role": "user", "content": "Hello!"}]}'
    elif settings.embedding_model:
        path, body = "embeddings", '{"input": "Hello!"}'
    elif settings.reranker_model:
        path, body = "rerank", '{"query": "Hello!", "documents": ["Hi!", "Rain"]}'
    else:
        path, body = "classify", '{"input": "Hello!"}'
    front = "Try      curl"
    return [f"{front} {url}/{path}{key} -H 'Content-Type: application/json' \\", f"           -d '{body}'"]


def _run(settings: Settings, listener: socket.socket, announcement: str) -> None:
    import uvicorn

    from llm_serving.api.app import create_app
    from llm_serving.cli.one_write import OneWriteProtocol
    from llm_serving.ops.log import configure_logging
    from llm_serving.service.load_thread import wait_for_loads
    from llm_serving.service.loader import load_chat_model
    from llm_serving.service.model import ChatModel

    failures: list[BaseException] = []
    has_loaded = threading.Event()

    class Server(uvicorn.Server):
        """A second Ctrl-C does not wait for anything."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if self.should_exit and sig == signal.SIGINT:
                os._exit(130)
            again = " Ctrl-C again quits at once." if sig == signal.SIGINT else ""
            click.echo(f"Stopping: running requests have {settings.drain_s:g} s to finish.{again}", err=True)
            super().handle_exit(sig, frame)

    def load(settings: Settings) -> ChatModel:
        try:
            model = load_chat_model(settings)
        except BaseException as error:
            # A server that cannot begin to answer ends, and says why. What fails later may be tried again.
            if not has_loaded.is_set():
                failures.append(error)
                server.should_exit = True
            raise
        has_loaded.set()
        return model

    configure_logging(settings.log_level)
    config = uvicorn.Config(
        create_app(settings, load=load),
        loop="uvloop",
        http=OneWriteProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # nothing here asks who is behind a proxy
        timeout_graceful_shutdown=round(settings.drain_s) + 5,  # after our own deadline, which tells clients
    )
    click.echo(announcement, err=True)  # not before all that settings ask for is there
    server = Server(config)
    server.run(sockets=[listener])
    if failures:
        wait_for_loads(_OTHERS_S)
        raise failures[0]
