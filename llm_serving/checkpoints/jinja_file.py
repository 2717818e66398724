"""The chat template of a Hugging Face directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_serving.checkpoints.json_files import read_object
from llm_serving.errors import CheckpointError

MAX_TEMPLATE_BYTES = 1 << 20


def read_jinja_template(folder: Path) -> str | None:
    """The default one as source: a file of its own, or in the tokenizer's configuration. None without one.

    Raises: CheckpointError if its file is damaged.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        with path.open("rb") as file:
            data = file.read(MAX_TEMPLATE_BYTES + 1)
        if len(data) > MAX_TEMPLATE_BYTES:
            raise CheckpointError(f"{path}: has over {MAX_TEMPLATE_BYTES} bytes, which is no template.")
        try:
            return data.decode() or None
        except UnicodeDecodeError:
            raise CheckpointError(f"{path}: is not valid UTF-8.") from None
    value: Any = None
    for name in (
        "chat_template.json",
        "tokenizer_config.json",
    ):  # the first is what processors of images have
        config = folder / name
        if value is None and config.is_file():
            value = read_object(config).get("chat_template")
    if isinstance(value, list):
        named = [item for item in value if isinstance(item, dict) and item.get("name") == "default"]
        value = named[0].get("template") if named else None
    return value if isinstance(value, str) and value else None
