"""From settings to a model that can answer. Blocks; call it on a thread of its own."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path

from llm_serving.backends import load_engine
from llm_serving.backends.fake import FakeTokenizer, load_fake_engine
from llm_serving.chat.template import ChatTemplate
from llm_serving.checkpoints import build_tokenizer, open_checkpoint
from llm_serving.config import Settings, SettingsError, env_name, flag_name
from llm_serving.engine.protocol import EngineOptions
from llm_serving.models import OnProgress, Progress, find_model, resolve_model
from llm_serving.service.model import ChatModel

logger = logging.getLogger(__name__)


def load_chat_model(settings: Settings, on_progress: OnProgress | None = None) -> ChatModel:
    """Resolve the name, fetch what is missing, open the file, start the engine.

    Raises: SettingsError (a device or engine that is not there), ModelNotFound, DownloadError,
    CheckpointError, MissingExtra.
    """
    _check_device(settings)
    options = engine_options(settings)
    name = public_name(settings.model_name)
    if settings.engine == "fake":
        return ChatModel(name, load_fake_engine(options), FakeTokenizer(), created=int(time.time()))
    path = resolve_model(
        settings.model_name, cache_dir=settings.cache_dir, on_progress=on_progress or ProgressLog(name)
    )
    checkpoint = open_checkpoint(path)
    tokenizer = build_tokenizer(checkpoint)
    template = None
    if checkpoint.chat_template:
        template = ChatTemplate(
            checkpoint.chat_template, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token
        )
    return ChatModel(
        name,
        load_engine(settings.engine, checkpoint, tokenizer.token_bytes, options),
        tokenizer,
        template,
        fingerprint=fingerprint(path, settings),
        created=int(time.time()),
        details={"architecture": checkpoint.architecture},
    )


def engine_options(settings: Settings) -> EngineOptions:
    """The part of the settings that engines know."""
    return EngineOptions(
        threads=settings.threads,
        context_length=settings.context_length,
        memory_bytes=settings.memory,
        max_concurrency=settings.max_concurrency,
        max_queue=settings.max_queue,
        quantization=settings.quantization,
    )


def public_name(model_name: str) -> str:
    """How a model is called towards clients: the catalogue's name, or a file's without folder and ending."""
    spec = find_model(model_name)
    if spec is not None:
        return spec.name
    path = Path(model_name)
    if path.suffix.lower() == ".gguf":
        return path.stem
    return path.resolve().name if path.is_dir() else model_name


def fingerprint(path: Path, settings: Settings) -> str:
    """`system_fingerprint`: another file, engine or quantisation gives another one."""
    facts = (path.name, path.stat().st_size, settings.engine, settings.quantization)
    return "fp_" + hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


class ProgressLog:
    """Progress for those who only see the log: a line a stage, and one every quarter of it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: tuple[str, int] | None = None

    def __call__(self, progress: Progress) -> None:
        quarter = 4 * progress.done_bytes // max(1, progress.total_bytes)
        if self._last != (progress.stage, quarter):
            self._last = (progress.stage, quarter)
            percent = 100 * progress.done_bytes // max(1, progress.total_bytes)
            logger.info("model %s: %s, %d %%", self._name, progress.stage, percent)


def _check_device(settings: Settings) -> None:
    if settings.engine in ("auto", "native", "fake") and settings.device not in ("auto", "cpu"):
        raise SettingsError(
            f"{flag_name('device')} ({env_name('device')}): there is no engine for '{settings.device}' yet; "
            "use auto or cpu"
        )
