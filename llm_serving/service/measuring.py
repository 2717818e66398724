"""What a model will be and take of the memory, told before it is loaded."""

from __future__ import annotations

from llm_serving.architectures import describe, sees
from llm_serving.backends import choose_engine
from llm_serving.backends.memory_need import MemoryNeed
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.config import Settings
from llm_serving.errors import ServingError
from llm_serving.models import resolve_model
from llm_serving.service.encoder_loader import encoder_setting, precision_of
from llm_serving.service.facts import ModelProfile, facts_of
from llm_serving.service.loader import measure_chat_model
from llm_serving.service.model import ModelKind
from llm_serving.service.naming import ProgressLog, find_path, public_name
from llm_serving.service.projector import find_eyes

# At most, since some matrices have 12 bits. Other weights are f32, or less in the transformers engine.
_BYTES_OF_A_WEIGHT = {"q8": 1.5}


def measure_model(settings: Settings, kind: ModelKind) -> MemoryNeed | None:
    """What the model of this kind will take, once everything is fetched; None where nobody can tell. Blocks.

    Raises: as `load_chat_model`, or `load_encoder_model`.
    """
    if kind is ModelKind.CHAT:
        return measure_chat_model(settings)
    if settings.engine == "fake":
        return None
    setting = encoder_setting(settings, kind)
    path = find_path(setting, settings, ProgressLog(public_name(setting)))
    a_weight = _BYTES_OF_A_WEIGHT.get(precision_of(settings, setting), 4.0)
    return MemoryNeed(int(facts_of(open_checkpoint(path)).num_parameters * a_weight), 0, 0, 0)


def read_profile(settings: Settings) -> ModelProfile | None:
    """What the chat model's files say of it; None where they are not here yet, or say nothing.

    Blocks, reads no weights. Its context may turn out shorter when it is loaded and memory is short.
    """
    if settings.engine == "fake":
        return None
    try:
        path = resolve_model(settings.model_name, cache_dir=settings.cache_dir, offline=True)
        choice = choose_engine(settings.engine, settings.device, path)
        checkpoint = choice.checkpoint or open_checkpoint(path)
        is_native = choice.name == "native"
        context = _context(checkpoint, is_native)
    except ServingError:  # loading it will tell
        return None
    if not context:
        return None
    context = min(settings.context_length or context, context)
    architecture = checkpoint.architecture if is_native else ""  # others have names of their own for it
    has_eyes = is_native and settings.max_images > 0 and _sees(checkpoint, settings)
    return ModelProfile(context, architecture, facts_of(checkpoint), sees=has_eyes)


def _sees(checkpoint: Checkpoint, settings: Settings) -> bool:
    try:
        return sees(find_eyes(checkpoint, settings).checkpoint)
    except ServingError:  # as above
        return False


def _context(checkpoint: Checkpoint, is_native: bool) -> int:
    """Tokens; 0 if that is not known. Raises: CheckpointError."""
    if is_native:
        return describe(checkpoint).max_context
    said = checkpoint.metadata.get("max_position_embeddings")
    return said if isinstance(said, int) and said > 0 else 0
