"""From settings to a model that can answer. Blocks; call it on a thread of its own."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from llm_serving.backends import (
    BACKENDS,
    DIRECTORY_BACKENDS,
    EngineChoice,
    check_engine,
    choose_engine,
    load_causal_lm,
    load_engine,
    memory_need,
)
from llm_serving.backends.fake import FakeTokenizer, load_fake_engine
from llm_serving.backends.memory_need import MemoryNeed
from llm_serving.backends.sight import load_sight
from llm_serving.chat.template import ChatTemplate
from llm_serving.checkpoints import Checkpoint, Tokenizer, build_tokenizer, open_checkpoint
from llm_serving.config import Settings, SettingsError, env_name, flag_name
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import CheckpointError, InvalidRequest, MissingExtra
from llm_serving.models import OnProgress, packed_directory
from llm_serving.service.adapters import find_adapters, named_adapters
from llm_serving.service.facts import facts_of, read_facts
from llm_serving.service.model import ChatModel
from llm_serving.service.naming import ProgressLog, find_path, public_name
from llm_serving.service.projector import find_eyes
from llm_serving.service.reasons import folders_of, without_folders
from llm_serving.service.vision import Limits, Vision

logger = logging.getLogger(__name__)

_NATIVE_ONLY = {"draft_model": "draft model", "mmproj": "projector"}


def load_chat_model(settings: Settings, on_progress: OnProgress | None = None) -> ChatModel:
    """Resolve the name, fetch what is missing, open the file, start the engine.

    Raises: SettingsError (a device or engine that is not there), ModelNotFound, DownloadError,
    CheckpointError, MissingExtra.
    """
    name = public_name(settings.model_name)
    found = _find(settings, on_progress)
    if found is None:
        fake = load_fake_engine(engine_options(settings))
        return ChatModel(name, fake, FakeTokenizer(), created=int(time.time()))
    path, choice = found
    logger.info("model %s: the %s engine, because %s", name, choice.name, choice.reason)
    if choice.name in DIRECTORY_BACKENDS:
        if settings.lora:
            raise SettingsError(no_adapters(choice.name))
        if settings.prefix_cache_dir is not None:
            logger.warning("model %s: the %s engine keeps no prompts on disk", name, choice.name)
        with naming_the_setting(settings):
            return _load_directory(name, path, settings, choice)
    with naming_the_setting(settings):
        eyes = find_eyes(choice.checkpoint or open_checkpoint(path), settings)
    if eyes.is_unfit:
        logger.warning("model %s: reads text only. %s", name, eyes.remedy)
    checkpoint = eyes.checkpoint
    tokenizer = build_tokenizer(checkpoint)
    with naming_the_setting(settings):
        vision = _load_vision(checkpoint, tokenizer, settings)  # before there is an engine to be closed
        beside = find_draft(settings, on_progress), find_adapters(settings, on_progress)
        options = engine_options(settings, *beside)
        engine = load_engine(choice.name, checkpoint, tokenizer.token_bytes, options)
    return ChatModel(
        name,
        engine,
        tokenizer,
        _template(checkpoint.chat_template or tokenizer.chat_template, tokenizer),
        fingerprint=fingerprint(path, settings, eyes.projector),
        created=int(time.time()),
        details={
            "architecture": checkpoint.architecture,
            **of_engine(choice, path, name),
            **({"draft_model": public_name(settings.guessing_model)} if settings.guessing_model else {}),
            **({"mmproj": eyes.projector.stem} if eyes.projector else {}),
        },
        facts=facts_of(checkpoint),
        vision=vision,
        sight_remedy=without_folders(eyes.remedy, folders_of(str(path))),
        adapters=tuple(fingerprint(path, settings, eyes.projector, each) for each in options.adapters),
    )


def measure_chat_model(settings: Settings) -> MemoryNeed | None:
    """What `load_chat_model` will take of the memory, once everything is fetched; None where nobody can tell.

    Raises: as `load_chat_model`.
    """
    found = _find(settings, None)
    if found is None:
        return None
    path, choice = found
    with naming_the_setting(settings):
        if choice.name in BACKENDS:
            eyes = find_eyes(choice.checkpoint or open_checkpoint(path), settings)
            choice = replace(choice, checkpoint=eyes.checkpoint)
        options = engine_options(settings, find_draft(settings), find_adapters(settings))
        return memory_need(choice, path, options, settings.device)


def _find(settings: Settings, on_progress: OnProgress | None) -> tuple[Path, EngineChoice] | None:
    """Where the model is, fetched if need be, and what runs it; None if nothing has to be there."""
    with naming_the_setting(settings):
        check_engine(settings.engine, settings.device)  # before anything is fetched
    if settings.engine == "fake":
        return None
    name = settings.model_name
    path = find_path(name, settings, on_progress or ProgressLog(public_name(name)))
    with naming_the_setting(settings):
        choice = choose_engine(settings.engine, settings.device, path)
        for field, what in _NATIVE_ONLY.items():
            if getattr(settings, field) and choice.name not in BACKENDS:
                raise InvalidRequest(
                    f"The {choice.name} engine takes none, and it was chosen because {choice.reason}. "
                    f"Leave the {what} out.",
                    field,
                )
    return path, choice


def find_draft(settings: Settings, on_progress: OnProgress | None = None) -> Path | None:
    """Where the draft model is, fetched if need be; None if none is to guess. Raises: as `find_path`."""
    name = settings.guessing_model
    return find_path(name, settings, on_progress or ProgressLog(public_name(name))) if name else None


def _load_directory(name: str, path: Path, settings: Settings, choice: EngineChoice) -> ChatModel:
    lm = load_causal_lm(choice.name, path, engine_options(settings), settings.device)
    return ChatModel(
        name,
        lm.engine,
        lm.tokenizer,
        _template(lm.chat_template, lm.tokenizer),
        fingerprint=fingerprint(path, settings),
        created=int(time.time()),
        details={**lm.details, **of_engine(choice, path, name)},
        facts=facts_of(choice.checkpoint) if choice.checkpoint else read_facts(path),
    )


def _load_vision(checkpoint: Checkpoint, tokenizer: Tokenizer, settings: Settings) -> Vision | None:
    """What the model reads images with, unless it has no eyes or nobody may send any."""
    sight = load_sight(checkpoint, engine_options(settings)) if settings.max_images else None
    if sight is None:
        return None
    limits = Limits(settings.max_images, settings.max_image_pixels, settings.max_queue)
    for wording in (sight.wording, sight.wording.spare):
        ids = tokenizer.encode_prompt(wording.place, add_bos=False) if wording else []
        if wording and len(ids) == 1:
            return Vision(replace(sight, wording=wording), ids[0], limits)
    sight.encoder.close()
    raise CheckpointError(f"The tokenizer of '{checkpoint.path}' has no token '{sight.wording.place}'.")


def _template(source: str | None, tokenizer: Tokenizer) -> ChatTemplate | None:
    if not source:
        return None
    return ChatTemplate(source, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token)


def of_engine(choice: EngineChoice, path: Path, name: str) -> dict[str, str]:
    """What lists of models say about it; where the model lies on this machine is nobody's business."""
    return {"engine": choice.name, "engine_reason": without_folders(choice.reason.replace(str(path), name))}


def engine_options(
    settings: Settings, draft_model: Path | None = None, adapters: tuple[Path, ...] = ()
) -> EngineOptions:
    """The part of the settings that engines know, and where the draft model and the adapters are.

    Adapters that were not looked for are where the settings say.
    """
    return EngineOptions(
        threads=settings.threads,
        context_length=settings.context_length,
        memory_bytes=settings.memory,
        max_concurrency=settings.max_concurrency,
        max_queue=settings.max_queue,
        quantization=settings.quantization,
        kv_cache=settings.kv_cache,
        speculation=settings.speculation,
        step_ms=settings.step_ms,
        packed_dir=packed_directory(settings.cache_dir),
        packed_bytes=settings.packed_cache,
        prefix_dir=settings.prefix_cache_dir,
        prefix_bytes=settings.prefix_cache_disk,
        sees=settings.max_images > 0,
        adapters=adapters or tuple(Path(adapter.source) for adapter in named_adapters(settings)),
        draft_model=draft_model,
    )


def no_adapters(engine: str) -> str:
    """What to tell who asks for adapters and an engine that has none."""
    return (
        f"{flag_name('lora')} ({env_name('lora')}): the {engine} engine runs no adapters. Use "
        f"{flag_name('engine')} native, or merge the adapter into the model's weights."
    )


def fingerprint(path: Path, settings: Settings, *more: Path | None) -> str:
    """`system_fingerprint`: another file, engine, quantisation or KV cache gives another one.

    So does one of `more`, what is loaded beside it.
    """
    facts: tuple[object, ...] = (*_sizes(path), settings.engine, settings.quantization, settings.kv_cache)
    for each in more:
        facts += _sizes(each) if each is not None else ()
    return "fp_" + hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def _sizes(path: Path) -> tuple[object, ...]:
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    return path.name, [(file.name, file.stat().st_size) for file in files]


@contextmanager
def naming_the_setting(settings: Settings) -> Iterator[None]:
    """Errors about a setting begin with its flag and variable."""
    try:
        yield
    except MissingExtra as error:
        field = "engine" if settings.device in ("auto", "cpu") else "device"
        raise SettingsError(f"{flag_name(field)} ({env_name(field)}): {error}") from error
    except InvalidRequest as error:
        if error.param not in Settings.model_fields:
            raise
        raise SettingsError(f"{flag_name(error.param)} ({env_name(error.param)}): {error}") from error
