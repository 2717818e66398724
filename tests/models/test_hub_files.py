"""Which files a name on the hub means."""

from __future__ import annotations

import pytest

from llm_serving.errors import ModelNotFound
from llm_serving.models.hub_files import (
    choose_adapter,
    choose_model,
    choose_projector,
    gguf_models,
    is_adapter,
    is_directory,
)
from llm_serving.models.hub_name import HubName, parse_hub_name

MANY = [
    ".gitattributes",
    "config.json",  # is often there, and makes no directory of safetensors of it
    "BF16/M-BF16-00002-of-00002.gguf",
    "BF16/M-BF16-00001-of-00002.gguf",
    "M-IQ4_XS.gguf",
    "M-Q4_K_M.gguf",
    "M-UD-Q4_K_M.gguf",
    "M-Q8_0.gguf",
    "imatrix_unsloth.gguf",
    "mmproj-BF16.gguf",
    "mmproj-F16.gguf",
]


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("o/m", HubName("o/m")),
        ("o/m:Q4_K_M", HubName("o/m", "Q4_K_M")),
        ("o/m:M-Q4_0.gguf", HubName("o/m", "M-Q4_0.gguf")),
        ("o/m/sub/M-Q4_0.gguf", HubName("o/m", "sub/M-Q4_0.gguf")),
        ("o/m@v1", HubName("o/m", revision="v1")),
        ("o/m:Q8_0@v1", HubName("o/m", "Q8_0", "v1")),
        ("hf.co/o/m:Q8_0", HubName("o/m", "Q8_0")),
        ("https://huggingface.co/o/m", HubName("o/m")),
        ("https://huggingface.co/o/m/tree/main", HubName("o/m")),
        ("https://huggingface.co/o/m/blob/main/M.gguf", HubName("o/m", "M.gguf")),
        ("https://huggingface.co/o/m/resolve/v1/s/M.gguf?download=true", HubName("o/m", "s/M.gguf", "v1")),
        ("m", None),
        ("o/m.gguf", None),
        ("a/b/c", None),
        ("./o/m", None),
        ("../m", None),
        ("/o/m", None),
        ("~/m", None),
        ("o/m:", None),
        ("o/m:../x@../y/z:", None),
        ("https://example.com/o/m", None),
        ("", None),
    ],
)
def test_how_models_are_called(name: str, means: HubName | None) -> None:
    assert parse_hub_name(name) == means
    if means is not None:
        assert parse_hub_name(str(means)) == means


@pytest.mark.parametrize(
    ("which", "first"),
    [
        ("", "M-Q4_K_M.gguf"),
        ("q8_0", "M-Q8_0.gguf"),
        ("Q4_K_M", "M-Q4_K_M.gguf"),
        ("UD-Q4_K_M", "M-UD-Q4_K_M.gguf"),
        ("BF16", "BF16/M-BF16-00001-of-00002.gguf"),
        ("BF16/M-BF16-00001-of-00002.gguf", "BF16/M-BF16-00001-of-00002.gguf"),
        ("M-IQ4_XS.gguf", "M-IQ4_XS.gguf"),
    ],
)
def test_one_of_several(which: str, first: str) -> None:
    files = choose_model(HubName("o/m", which), MANY)
    assert files[0] == first
    assert len(files) == (2 if "BF16" in first else 1)


@pytest.mark.parametrize("which", ["Q2_K", "4_K_M", "mmproj-F16.gguf", "config.json"])
def test_what_is_not_there_is_told(which: str) -> None:
    with pytest.raises(ModelNotFound, match=r"'o/m' has BF16, IQ4_XS, Q4_K_M, Q8_0, UD-Q4_K_M\. Name one"):
        choose_model(HubName("o/m", which), MANY)


def test_without_a_word_which() -> None:
    assert choose_model(HubName("o/m"), ["x-mxfp4.gguf", "README.md"]) == ["x-mxfp4.gguf"]
    assert choose_model(HubName("o/m"), ["x.Q8_0.gguf", "x.Q5_K_S.gguf"]) == ["x.Q5_K_S.gguf"]
    with pytest.raises(ModelNotFound, match=r"has one\.gguf, two\.gguf\. Name one of them: o/m:one\.gguf"):
        choose_model(HubName("o/m"), ["two.gguf", "one.gguf"])
    with pytest.raises(ModelNotFound, match="neither GGUF files nor safetensors"):
        choose_model(HubName("o/m"), ["pytorch_model.bin"])


def test_what_lacks_a_part_is_no_model() -> None:
    assert list(gguf_models([file for file in MANY if "00001" not in file])) == [
        "IQ4_XS",
        "Q4_K_M",
        "Q8_0",
        "UD-Q4_K_M",
    ]
    parts = [f"M-{i:05}-of-00003.gguf" for i in (1, 2, 3)]
    assert gguf_models(parts) == {"M.gguf": parts}
    assert gguf_models(parts[1:]) == {}


def test_what_an_adapter_is() -> None:
    files = ["README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]
    assert is_adapter(files)
    assert choose_adapter(HubName("o/a"), files) == files[1:3]
    for name, here, message in (
        (
            HubName("o/a"),
            files[:2],
            "'o/a' is no adapter as PEFT saves them: it has no adapter_model.safetensors",
        ),
        (HubName("o/a"), MANY, "it has no adapter_config.json and no adapter_model.safetensors"),
        (HubName("o/a", "Q8_0"), files, "An adapter is all of a repository: name o/a"),
    ):
        with pytest.raises(ModelNotFound, match=message):
            choose_adapter(name, here)


def test_two_models_of_one_precision_are_called_by_their_files() -> None:
    assert set(gguf_models(["a-Q8_0.gguf", "b-Q8_0.gguf", "b-Q4_0.gguf"])) == {
        "a-Q8_0.gguf",
        "b-Q8_0.gguf",
        "Q4_0",
    }


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (MANY, ["mmproj-F16.gguf"]),
        (["mmproj-m-Q8_0.gguf", "mmproj-m-f16.gguf"], ["mmproj-m-f16.gguf"]),
        (["mmproj-b.gguf", "mmproj-a.gguf"], ["mmproj-a.gguf"]),
        (["m.gguf"], []),
    ],
)
def test_what_a_model_sees_with(files: list[str], chosen: list[str]) -> None:
    assert choose_projector(files) == chosen


def test_what_a_directory_is() -> None:
    parts = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert is_directory(["config.json", *parts])
    assert not is_directory(["config.json", *parts[1:]])
    assert not is_directory(MANY)
    assert not is_directory(["config.json", "onnx/model.safetensors"])
