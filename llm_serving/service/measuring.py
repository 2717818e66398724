"""What a model will take of the memory, told before it is loaded."""

from __future__ import annotations

from llm_serving.backends.memory_need import MemoryNeed
from llm_serving.checkpoints import open_checkpoint
from llm_serving.config import Settings
from llm_serving.service.encoder_loader import encoder_setting, precision_of
from llm_serving.service.facts import facts_of
from llm_serving.service.loader import ProgressLog, find_path, measure_chat_model, public_name
from llm_serving.service.model import ModelKind

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
