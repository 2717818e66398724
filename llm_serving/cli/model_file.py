"""`llm-serving models show` for a path: what a file or a directory is, and which engine would run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_serving.cli.terminal import format_bytes, print_facts, print_json


def show(path: Path, as_json: bool) -> None:
    """Reads no weights. Raises: CheckpointError for what no engine opens."""
    facts = _facts(path)
    if as_json:
        print_json(facts)
        return
    context = f"{facts['context']} tokens" if facts["context"] else "not known"
    print_facts(
        [
            ("Path", facts["path"]),
            ("Family", facts["family"] or "not known"),
            ("Parameters", f"{facts['parameters'] / 1e6:,.1f} million"),
            ("Weights", f"{facts['format']}, most of them {facts['quantization']}"),
            ("Context", context),
            ("Images", "yes" if facts["sees"] else "no"),
            ("Size", format_bytes(facts["size"])),
            ("Engine", facts["engine"]),
        ]
    )


def _facts(path: Path) -> dict[str, Any]:
    from llm_serving.architectures import ENCODER_FAMILIES, FAMILIES, describe_encoder
    from llm_serving.backends import choose_encoder_engine, choose_engine
    from llm_serving.checkpoints import open_checkpoint
    from llm_serving.config import Settings
    from llm_serving.errors import ServingError
    from llm_serving.service.facts import facts_of
    from llm_serving.service.measuring import read_profile

    checkpoint = open_checkpoint(path)
    is_encoder = checkpoint.architecture in ENCODER_FAMILIES and checkpoint.architecture not in FAMILIES
    context, sees = None, False
    try:
        if is_encoder:
            choice = choose_encoder_engine("auto", "auto", checkpoint)
            context = describe_encoder(checkpoint).context if choice.name == "native" else None
        else:
            choice = choose_engine("auto", "auto", path)
            if (profile := read_profile(Settings(model_name=str(path)))) is not None:
                context, sees = profile.context_length, profile.sees
        engine = f"{choice.name}, because {choice.reason}"
    except ServingError as problem:
        engine = f"none: {problem}"
    told = facts_of(checkpoint)
    return {
        "path": str(path),
        "family": checkpoint.architecture,
        "kind": "embedding" if is_encoder else "chat",
        "parameters": told.num_parameters,
        "format": told.format,
        "quantization": told.quantization,
        "context": context,
        "sees": sees,
        "size": told.num_bytes,
        "engine": engine,
    }
