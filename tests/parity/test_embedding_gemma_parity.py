"""EmbeddingGemma against transformers, as a directory and as a GGUF file: attention in both directions,
windows to both sides, dense layers behind the mean."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the parity suite needs torch; run it with: make parity")
transformers = pytest.importorskip("transformers")

from safetensors.numpy import save_file  # noqa: E402

from llm_serving.backends.native_encoder import load  # noqa: E402
from llm_serving.checkpoints import dequantize, open_checkpoint  # noqa: E402
from llm_serving.embeddings.encoder import EncoderInput  # noqa: E402
from llm_serving.errors import CheckpointError  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

HIDDEN, WIDE, WINDOW, LAYERS = 64, 96, 16, 7
TEXTS = [np.random.default_rng(n).integers(5, 300, n).tolist() for n in (1, 2, 8, 9, 10, 17, 40, 120)]


def saved(directory: Path, *, both_directions: bool = True) -> Path:
    """A small model with the structure of google/embeddinggemma-300m; the last but one layer sees all."""
    config = transformers.Gemma3TextConfig(
        vocab_size=300,
        hidden_size=HIDDEN,
        intermediate_size=160,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
        query_pre_attn_scalar=32,
        max_position_embeddings=128,
        sliding_window=WINDOW,
        use_bidirectional_attention=both_directions,
    )
    torch.manual_seed(3)
    model = transformers.Gemma3TextModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0, 0.2 if weight.ndim == 1 else 1.5 / weight.shape[-1] ** 0.5)

    model.save_pretrained(directory)
    rng = np.random.default_rng(4)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Dense", "Dense")]
    for folder, sizes in (("2_Dense", (HIDDEN, WIDE)), ("3_Dense", (WIDE, HIDDEN))):
        (directory / folder).mkdir()
        matrix = rng.normal(0, 0.2, sizes[::-1]).astype(np.float32)
        save_file({"linear.weight": matrix}, directory / folder / "model.safetensors")
        facts = {"in_features": sizes[0], "out_features": sizes[1], "bias": False}
        facts["activation_function"] = "torch.nn.modules.linear.Identity"
        (directory / folder / "config.json").write_text(json.dumps(facts))
    (directory / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate([*modules, ("4_Normalize", "Normalize")])
    ]
    (directory / "modules.json").write_text(json.dumps(listed))
    return directory


def expected_rows(directory: Path) -> np.ndarray:
    model = transformers.AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    assert model.config.sliding_window == WINDOW // 2 + 1
    matrices = [open_checkpoint(directory).tensor(f"{n}_Dense.linear.weight") for n in (2, 3)]
    rows = []
    for ids in TEXTS:
        with torch.no_grad():
            row = model(torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()
        for matrix in matrices:
            row = dequantize(matrix) @ row
        rows.append(row / np.linalg.norm(row))
    return np.array(rows)


def rows_of(path: Path, threads: int = 2, isa: str = "auto") -> np.ndarray:
    encoder = load(open_checkpoint(path), "f32", threads, isa=isa)
    return encoder.encode([EncoderInput(ids) for ids in TEXTS])


def test_rows_are_transformers(tmp_path: Path) -> None:
    directory = saved(tmp_path / "m")
    np.testing.assert_allclose(rows_of(directory), expected_rows(directory), atol=2e-5)
    assert (rows_of(directory, 1, "scalar") == rows_of(directory)).all()


def test_a_gguf_file_gives_the_same(tmp_path: Path) -> None:
    directory = saved(tmp_path / "m")
    checkpoint = open_checkpoint(directory)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "gemma-embedding")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(160)
    writer.add_head_count(4)
    writer.add_head_count_kv(1)
    writer.add_key_length(32)
    writer.add_value_length(32)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(WINDOW)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA_EMBEDDING, LAYERS)
    for name, tensor in checkpoint.tensors.items():
        dense, _, rest = name.partition("_Dense.linear")
        new = f"dense_{dense}{rest}" if rest else names.get_name(f"model.{name}", (".weight",))
        assert new is not None
        writer.add_tensor(new, dequantize(tensor) + (1.0 if "norm" in name else 0.0))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    np.testing.assert_allclose(rows_of(tmp_path / "m.gguf"), expected_rows(directory), atol=2e-5)


def test_a_language_model_is_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="use_bidirectional_attention"):
        rows_of(saved(tmp_path / "m", both_directions=False))
