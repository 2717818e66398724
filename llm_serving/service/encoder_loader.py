"""From settings to an encoder that can embed or score. Blocks; call it on a thread of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from llm_serving.backends import load_encoder
from llm_serving.backends.fake_encoder import FakeEncoder, FakeEncoderTokenizer
from llm_serving.checkpoints import (
    Checkpoint,
    Classes,
    ScoreActivation,
    SentenceTransformers,
    build_encoder_tokenizer,
    open_checkpoint,
    read_classes,
    require_classifier,
)
from llm_serving.config import Settings, flag_name
from llm_serving.embeddings.batcher import MAX_BATCH_TOKENS, Batcher
from llm_serving.embeddings.encoder import Encoder
from llm_serving.errors import CheckpointError
from llm_serving.models import OnProgress, find_model, packed_directory
from llm_serving.native.packed_cache import PackedCache
from llm_serving.service.facts import facts_of
from llm_serving.service.loader import naming_the_setting, of_engine
from llm_serving.service.model import EncoderModel, ModelKind
from llm_serving.service.naming import ProgressLog, find_path, public_name
from llm_serving.service.reranker import open_reranker

FAKE_CLASSES = Classes(("negative", "neutral", "positive"), "softmax")

logger = logging.getLogger(__name__)


def load_encoder_model(
    settings: Settings, kind: ModelKind, on_progress: OnProgress | None = None
) -> EncoderModel:
    """Resolve the model of this kind, fetch what is missing, open it, start its batcher.

    Raises: SettingsError, ModelNotFound, DownloadError, CheckpointError, MissingExtra.
    """
    setting = encoder_setting(settings, kind)
    name = public_name(setting)
    if settings.engine == "fake":
        return _fake(name, kind, settings)
    path = find_path(setting, settings, on_progress or ProgressLog(name))
    checkpoint = open_checkpoint(path)
    facts = facts_of(checkpoint)
    activation: ScoreActivation = "sigmoid"
    if kind is ModelKind.RERANKER:
        reranker = open_reranker(checkpoint)
        checkpoint, tokenizer, activation = reranker.checkpoint, reranker.tokenizer, reranker.activation
    else:
        tokenizer = build_encoder_tokenizer(checkpoint)
    if kind is ModelKind.CLASSIFIER:
        require_classifier(checkpoint)
    with naming_the_setting(settings):
        encoder, choice = load_encoder(
            settings.engine,
            checkpoint,
            precision=precision_of(settings, setting),
            threads=settings.threads,
            device=settings.device,
            packed=PackedCache(packed_directory(settings.cache_dir), settings.packed_cache),
        )
    logger.info("model %s: the %s engine, because %s", name, choice.name, choice.reason)
    try:
        classes = _classes(checkpoint, kind, encoder.dimensions)
    except CheckpointError:
        encoder.close()
        raise
    prompts, default_prompt = _prompts(checkpoint.extras.get("sentence_transformers"))
    return EncoderModel(
        name,
        _batcher(encoder, settings),
        tokenizer,
        prompts,
        default_prompt,
        activation,
        classes,
        created=int(time.time()),
        details={"architecture": checkpoint.architecture, **of_engine(choice, path, name)},
        facts=facts,
    )


def _classes(checkpoint: Checkpoint, kind: ModelKind, num_outputs: int) -> Classes | None:
    if kind is ModelKind.RERANKER and num_outputs != 1:
        raise CheckpointError(
            f"{checkpoint.path}: has {num_outputs} outputs; a reranker has one. "
            f"A classifier is named by {flag_name('classifier_model')}."
        )
    return read_classes(checkpoint, num_outputs) if kind is ModelKind.CLASSIFIER else None


def _fake(name: str, kind: ModelKind, settings: Settings) -> EncoderModel:
    encoder: Encoder = FakeEncoder(is_cross_encoder=kind is ModelKind.RERANKER)
    classes = None
    if kind is ModelKind.CLASSIFIER:
        encoder, classes = FakeEncoder(dimensions=len(FAKE_CLASSES.labels)), FAKE_CLASSES
    return EncoderModel(
        name,
        _batcher(encoder, settings),
        FakeEncoderTokenizer(),
        classes=classes,
        created=int(time.time()),
    )


def encoder_setting(settings: Settings, kind: ModelKind) -> str:
    """Name or path of the model of this kind."""
    of_kind = {
        ModelKind.RERANKER: settings.reranker_model,
        ModelKind.CLASSIFIER: settings.classifier_model,
    }
    return of_kind.get(kind, settings.embedding_model)


def precision_of(settings: Settings, name: str) -> str:
    """`auto` is less than f32 only for models of the catalogue, where tests prove it on real text."""
    spec = find_model(name)
    proven = spec.precision if spec is not None else ""
    return proven if settings.embedding_precision == "auto" and proven else settings.embedding_precision


def _batcher(encoder: Encoder, settings: Settings) -> Batcher:
    return Batcher(encoder, max_batch_tokens=MAX_BATCH_TOKENS, max_queue_texts=settings.embedding_queue)


def _prompts(settings: SentenceTransformers | None) -> tuple[Mapping[str, str], str]:
    if settings is None:
        return {}, ""
    return settings.prompts, settings.prompts.get(settings.default_prompt or "", "")
