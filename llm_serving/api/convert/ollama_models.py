"""Ollama's API: models of the registry → its lists of models.

What is not known, since a model was never loaded or has no files, is 0 or empty.
"""

from __future__ import annotations

import time
from hashlib import sha256
from typing import Any

import orjson

from llm_serving.api.convert.ollama_output import time_text
from llm_serving.chat.reasoning import reasons
from llm_serving.config import Settings
from llm_serving.models import find_model
from llm_serving.service.adapters import NamedAdapter
from llm_serving.service.facts import ModelFacts
from llm_serving.service.model import ChatModel, EncoderModel, ModelKind
from llm_serving.service.residency import AnySlot

_CAPABILITIES = {
    ModelKind.CHAT: ["completion", "tools"],
    ModelKind.EMBEDDING: ["embedding"],
    ModelKind.RERANKER: [],
    ModelKind.CLASSIFIER: [],
}
_NEVER = "9999-01-01T00:00:00Z"  # some months short of the end, for clients that add a time zone
_UNKNOWN = ModelFacts(format="", num_bytes=0, modified_s=0, num_parameters=0, quantization="")
_ON_GPU = ("cuda", "mps")


def listed(slot: AnySlot, adapter: NamedAdapter | None = None) -> dict[str, Any]:
    """A model of `/api/tags`, or an adapter of one.

    Its digest is that of what is said here: files are not read for it.
    """
    facts, name = _facts(slot), _tagged(adapter.name if adapter else slot.name)
    told = {
        "name": name,
        "model": name,
        "modified_at": time_text(facts.modified_s),
        "size": facts.num_bytes,
        "details": _details(slot, facts, adapter),
    }
    return {**told, "digest": sha256(orjson.dumps(told)).hexdigest()}


def running(slot: AnySlot, model: ChatModel | EncoderModel, unload_after_s: float) -> dict[str, Any]:
    """A model of `/api/ps`, which is loaded; it leaves when nobody has used it for so long, 0 = never."""
    told = listed(slot)
    unused_s = time.monotonic() - slot.last_used_s if slot.is_idle else 0.0
    expires_at = time_text(time.time() + unload_after_s - unused_s) if unload_after_s else _NEVER
    return {
        **told,
        "expires_at": expires_at,
        "size_vram": told["size"] if model.device.startswith(_ON_GPU) else 0,
        "context_length": model.profile.context_length,
    }


def shown(slot: AnySlot, settings: Settings, adapter: NamedAdapter | None = None) -> dict[str, Any]:
    """`/api/show`. The template is a Jinja one."""
    model, facts, spec = slot.model, _facts(slot), find_model(slot.name)
    family = _family(slot)
    template = model.template.source if isinstance(model, ChatModel) and model.template else ""
    parameters = _parameters(model, settings) if isinstance(model, ChatModel) else {}
    info: dict[str, Any] = {
        "general.architecture": family,
        "general.basename": adapter.name if adapter else slot.name,
        "general.parameter_count": facts.num_parameters,
    }
    if (profile := slot.profile) is not None:
        info[f"{family}.context_length"] = profile.context_length
        if slot.kind is ModelKind.EMBEDDING:
            info[f"{family}.embedding_length"] = profile.dimensions
    return {
        "modelfile": f"# llm-serving has no Modelfiles; this is as near as one comes.\nFROM {slot.name}\n",
        "parameters": "\n".join(f"{name:<30} {value}" for name, value in parameters.items()),
        "template": template,
        "system": settings.system_prompt if slot.kind is ModelKind.CHAT else "",
        "license": spec.licence if spec else "",
        "modified_at": time_text(facts.modified_s),
        "details": _details(slot, facts, adapter),
        "model_info": info,
        "capabilities": [*_CAPABILITIES[slot.kind], *_skills(model)],
    }


def _facts(slot: AnySlot) -> ModelFacts:
    return (slot.profile.facts if slot.profile is not None else None) or _UNKNOWN


def _tagged(name: str) -> str:
    return name if ":" in name else f"{name}:latest"


def _family(slot: AnySlot) -> str:
    return slot.profile.architecture if slot.profile is not None else ""


def _skills(model: ChatModel | EncoderModel | None) -> list[str]:
    """What not every model of its kind can do."""
    if not isinstance(model, ChatModel):
        return []
    thinks = model.template is not None and reasons(model.template.source)
    fills_in, sees = model.tokenizer.fill_in is not None, model.vision is not None
    return ["thinking"] * thinks + ["insert"] * fills_in + ["vision"] * sees


def _parameters(model: ChatModel, settings: Settings) -> dict[str, float]:
    """What holds where a request does not say."""
    return {
        "num_ctx": model.profile.context_length,
        "num_predict": settings.max_new_tokens,
        "temperature": settings.temperature if settings.do_sample else 0.0,
    }


def _details(slot: AnySlot, facts: ModelFacts, adapter: NamedAdapter | None) -> dict[str, Any]:
    family = _family(slot)
    return {
        "parent_model": _tagged(slot.name) if adapter else "",
        "format": facts.format,
        "family": family,
        "families": [family] if family else [],
        "parameter_size": _human(facts.num_parameters) if facts.num_parameters else "",
        "quantization_level": facts.quantization,
    }


def _human(number: int) -> str:
    """`134.52M`, `1.7B`."""
    if number >= 1_000_000_000:
        return f"{number / 1e9:.1f}B"
    return f"{number / 1e6:.2f}M" if number >= 1_000_000 else f"{number / 1e3:.0f}K"
