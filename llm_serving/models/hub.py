"""Models of the Hugging Face hub, by name: from its cache on this machine, or over the network."""

from __future__ import annotations

from pathlib import Path

from llm_serving.errors import DownloadError, ModelNotFound

# Weights as safetensors only: pickles can run code.
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
_UNWANTED = ["onnx/*", "openvino/*", "original/*", "*/onnx/*"]


def fetch(name: str, *, only_config: bool = False) -> Path:
    """The directory of a model such as `Qwen/Qwen2.5-3B-Instruct`. Blocks while it downloads.

    `only_config` fetches its config.json, to see what it is before the weights are fetched.
    Raises: ModelNotFound; DownloadError when it is not on this machine and cannot be fetched.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    wanted = ["config.json"] if only_config else _WANTED
    try:
        directory = huggingface_hub.snapshot_download(name, allow_patterns=wanted, ignore_patterns=_UNWANTED)
    except HFValidationError as error:
        raise ModelNotFound(name, "It is neither a path nor a name of the form owner/model.") from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            name, "The Hugging Face hub does not know it, or it is private and HF_TOKEN is not set."
        ) from error
    except Exception as error:  # the network can fail with any error there is
        raise DownloadError(
            f"The model '{name}' is not on this machine and could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}). Give the path of a model directory, or fetch it where there is a "
            f"network: hf download {name}"
        ) from error
    return Path(directory)
