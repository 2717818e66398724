"""The engines there are, and the rule that chooses one. Nothing is imported until it is used."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from llm_serving.architectures import ENCODER_FAMILIES, FAMILIES, describe, describe_encoder
from llm_serving.backends import transformers_backend, vllm_backend
from llm_serving.backends.causal_lm import CausalLM
from llm_serving.backends.memory_need import MemoryNeed
from llm_serving.checkpoints import Checkpoint, open_checkpoint, tokenizer_json
from llm_serving.embeddings.encoder import Encoder
from llm_serving.engine.protocol import Engine, EngineOptions
from llm_serving.errors import CheckpointError, InvalidRequest, MissingExtra
from llm_serving.native.packed_cache import PackedCache

ENGINES = ("auto", "native", "transformers", "vllm", "fake")

# Each module has `load(checkpoint, token_bytes, options) -> Engine` and `memory_need(checkpoint, options)`.
BACKENDS = {
    "native": "llm_serving.backends.native_backend",
}
# These read directories themselves: `load_causal_lm(directory, options, device) -> CausalLM`.
DIRECTORY_BACKENDS = {"transformers": transformers_backend, "vllm": vllm_backend}
# Each module has `load(checkpoint, precision, threads, packed) -> Encoder`.
ENCODERS = {"native": "llm_serving.backends.native_encoder"}


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """Which engine runs a model, and why, in words for users; the checkpoint if it was opened on the way."""

    name: str
    reason: str
    checkpoint: Checkpoint | None = None


def check_engine(engine: str, device: str) -> None:
    """Whether these two go together, as far as that is known without a model.

    Raises: InvalidRequest (unknown engine, or one that does not run on this device); MissingExtra.
    """
    if engine not in ENGINES:
        raise InvalidRequest(f"There is no engine '{engine}'; there are {', '.join(ENGINES)}.", "engine")
    on_cpu = device in ("auto", "cpu")
    if engine in ("native", "fake") and not on_cpu:
        raise InvalidRequest(
            f"The {engine} engine runs on the CPU only, not on '{device}'. "
            "Use --engine transformers, or --device cpu.",
            "device",
        )
    if engine == "vllm":
        vllm_backend.require()
    if engine == "transformers" or (engine == "auto" and not on_cpu):
        transformers_backend.require()


def choose_engine(engine: str, device: str, path: Path) -> EngineChoice:
    """The engine for the model at `path`: as named; for "auto" the native one wherever it can run the model.

    Raises: what `check_engine` raises; CheckpointError, naming both ways out, when neither engine can run it.
    """
    if (asked := _asked_for(engine, device)) is not None:
        return asked
    is_directory = path.is_dir() and any(path.glob("*.safetensors"))
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointError as problem:
        if is_directory:
            return _without_native(problem)
        raise
    if checkpoint.architecture in ENCODER_FAMILIES and checkpoint.architecture not in FAMILIES:
        raise CheckpointError(
            f"'{path}' is an encoder ('{checkpoint.architecture}'): it makes embeddings and does not chat. "
            f"Serve it with --embedding-model {path}, and --model-name '' if nothing is to chat."
        )
    try:
        describe(checkpoint)
        if checkpoint.format == "huggingface":
            tokenizer_json(Path(checkpoint.path))
    except CheckpointError as problem:
        if is_directory:
            return _without_native(problem)
        raise CheckpointError(
            f"{problem} The transformers engine may run the directory of safetensors it was made from."
        ) from problem
    return EngineChoice("native", f"it runs the family '{checkpoint.architecture}'", checkpoint)


def choose_encoder_engine(engine: str, device: str, checkpoint: Checkpoint) -> EngineChoice:
    """The engine for an embedding model or a reranker, by the rule of `choose_engine`.

    Beside vLLM, which has the device to itself, they are served on the CPU as if nothing had been asked for.
    Raises: what `check_engine` raises; CheckpointError.
    """
    engine, device = _of_encoders(engine, device)
    if (asked := _asked_for(engine, device)) is not None:
        return asked
    try:
        describe_encoder(checkpoint)
    except CheckpointError as problem:
        if checkpoint.format != "huggingface":
            raise
        return _without_native(problem)
    return EngineChoice("native", f"it runs the family '{checkpoint.architecture}'", checkpoint)


def _of_encoders(engine: str, device: str) -> tuple[str, str]:
    return ("auto", "cpu") if engine == "vllm" else (engine, device)


def _asked_for(engine: str, device: str) -> EngineChoice | None:
    """What settings alone decide."""
    check_engine(engine, device)
    if engine != "auto":
        return EngineChoice(engine, f"--engine {engine} was asked for")
    if device not in ("auto", "cpu"):
        return EngineChoice("transformers", f"device '{device}' was asked for; the native engine is for CPUs")
    return None


def _without_native(problem: CheckpointError) -> EngineChoice:
    try:
        transformers_backend.require()
    except MissingExtra as missing:
        raise CheckpointError(
            f"{problem} The transformers engine may run it: pip install 'llm-serving[{missing.extra}]'. "
            "Otherwise serve a GGUF file of a family that the native engine runs."
        ) from problem
    return EngineChoice("transformers", f"the native engine does not run it: {problem}")


def load_engine(
    name: str, checkpoint: Checkpoint, token_bytes: list[bytes], options: EngineOptions
) -> Engine:
    """Load a checkpoint into the engine called `name`; "auto" chooses. Blocking, and slow for large models.

    Raises: InvalidRequest for an unknown name; CheckpointError; ServingError when memory does not suffice.
    """
    module = BACKENDS.get("native" if name == "auto" else name)
    if module is None:
        raise InvalidRequest(f"There is no engine '{name}'; there are auto, {', '.join(BACKENDS)}.", "engine")
    engine: Engine = import_module(module).load(checkpoint, token_bytes, options)
    return engine


def memory_need(choice: EngineChoice, path: Path, options: EngineOptions, device: str) -> MemoryNeed | None:
    """What the model at `path` will take of this machine's memory; None where nobody can tell before.

    Reads no weights. Raises: CheckpointError, InvalidRequest.
    """
    if choice.name in BACKENDS:
        checkpoint = choice.checkpoint or open_checkpoint(path)
        need: MemoryNeed = import_module(BACKENDS[choice.name]).memory_need(checkpoint, options)
        return need
    return transformers_backend.memory_need(path, device) if choice.name == "transformers" else None


def load_causal_lm(name: str, directory: Path, options: EngineOptions, device: str) -> CausalLM:
    """Load a directory into one of `DIRECTORY_BACKENDS`. Blocking, and slow for large models.

    Raises: InvalidRequest, CheckpointError, MissingExtra; ServingError when memory does not suffice.
    """
    lm: CausalLM = DIRECTORY_BACKENDS[name].load_causal_lm(directory, options, device)
    return lm


def load_encoder(
    engine: str,
    checkpoint: Checkpoint,
    *,
    precision: str = "auto",
    threads: int = 0,
    device: str = "auto",
    packed: PackedCache | None = None,
) -> tuple[Encoder, EngineChoice]:
    """Load an embedding model or a cross-encoder into the engine of `choose_encoder_engine`. Blocking.

    Weights that do not fit the native engine go to the other one, if that may be chosen. `packed`: where the
    native engine keeps packed weights for the next start.
    Raises: what `check_engine` raises; CheckpointError.
    """
    engine, device = _of_encoders(engine, device)
    choice = choose_encoder_engine(engine, device, checkpoint)
    encoder: Encoder
    if choice.name == "native":
        try:
            encoder = import_module(ENCODERS["native"]).load(checkpoint, precision, threads, packed)
            return encoder, choice
        except CheckpointError as problem:
            if engine != "auto" or checkpoint.format != "huggingface":
                raise
            choice = _without_native(problem)
    encoder = transformers_backend.load_encoder(checkpoint, device, precision, threads)
    return encoder, choice
