"""Embeddings over HTTP: one text on an idle server, 32 clients with one text each, all texts in one request.

    python benchmarks/embeddings_http.py [--xllamacpp ~/peers/xlla] [--json embeddings-http.json]

Starts our server (both default models) and, with --xllamacpp, llama.cpp's with the GGUF file that
peer_files.py wrote; they take turns. The client is lean_client.py, whose own cost is measured and printed
in the same run; it shares the cores with the server. Texts as in embeddings.py.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from pathlib import Path

import orjson
import peers
import uvloop
from english import CACHE, passages
from lean_client import at_once, one_after_another, own_cost, post
from results import Results, publish, turns

from llm_serving.checkpoints import build_encoder_tokenizer, open_checkpoint
from llm_serving.models import resolve_model

CLIENTS = 32
TEXTS = {"mixed": 64.0, "short": 10.5}  # words on average


def request(texts: list[str]) -> bytes:
    body = {"model": "all-minilm-l6-v2", "input": texts, "encoding_format": "base64"}
    return post("/v1/embeddings", orjson.dumps(body))


def measure(port: int, texts: list[str], tokens: int) -> dict[str, float]:
    singles = [request([text]) for text in texts]
    uvloop.run(one_after_another(port, singles[:16]))
    alone = sorted(uvloop.run(one_after_another(port, singles[:200])))
    batch_s = sum(uvloop.run(one_after_another(port, [request(texts)])))
    together_s, _ = uvloop.run(at_once(port, singles, CLIENTS))
    return {
        "one text, median ms": statistics.median(alone) * 1e3,
        "one text, 95 % ms": alone[int(0.95 * len(alone))] * 1e3,
        "one request, tok/s": tokens / batch_s,
        f"{CLIENTS} clients, tok/s": tokens / together_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    peers.add_own_arguments(parser, "all-minilm-l6-v2")
    parser.add_argument("--xllamacpp", type=Path, help="environment with xllamacpp")
    parser.add_argument("--files", type=Path, default=CACHE, help="what peer_files.py wrote")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    arguments.logs.mkdir(exist_ok=True)
    model = Path(resolve_model(arguments.model))
    tokenizer = build_encoder_tokenizer(open_checkpoint(model))
    chat = Path(resolve_model("smollm2-135m-instruct"))
    chosen = [peers.ours(chat, arguments.threads, 8101, "--embedding-model", arguments.model)]
    if arguments.xllamacpp:
        file = arguments.files / "minilm-f16.gguf"
        peer = peers.xllamacpp(arguments.xllamacpp, file, arguments.threads, CLIENTS, 256)
        chosen.append(peers.Server("llama.cpp f16", [*peer.command, "--embedding"], peer.port))
    names = [server.name for server in chosen]
    ports = {server.name: server.port for server in chosen}
    lower = Results("milliseconds", names, "lower")
    higher = Results("tokens a second", names)
    share = Results(f"{CLIENTS} clients, % of one request's rate", names, "")
    one, many, cpu = own_cost()
    with contextlib.ExitStack() as stack:
        for server in chosen:
            stack.enter_context(peers.running(server, arguments.logs))
        for kind, words in TEXTS.items():
            texts = passages(words, arguments.texts)
            tokens = sum(len(ids) for ids in tokenizer.encode_batch(texts))
            for repeat in range(arguments.repeats):
                for name in turns(names, repeat):
                    values = measure(ports[name], texts, tokens)
                    for figure, value in values.items():
                        (lower if "ms" in figure else higher).add(f"{kind}: {figure}", name, value)
                    *_, batch, together = values.values()
                    share.add(kind, name, 100 * together / batch)
    publish([lower, higher, share], arguments.json, client_us=[round(x * 1e6) for x in (one, many, cpu)])
    print(
        f"\nThe client's own cost: {one * 1e6:.0f} µs a single request, {many * 1e6:.0f} µs with 32 clients"
    )


if __name__ == "__main__":
    main()
