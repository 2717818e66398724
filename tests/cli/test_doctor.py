"""`doctor`: one line a check, a remedy for what is wrong, 1 if something is."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub.constants as constants
import pytest
from tiny_adapters import write_adapter
from tiny_deberta import write_tiny_deberta
from tiny_encoders import write_tiny_bert
from tiny_models import write_tiny_llama

from llm_serving.checkpoints import open_checkpoint
from llm_serving.cli import doctor_checks, doctor_measure
from llm_serving.cli.doctor_checks import all_checks
from llm_serving.cli.program import run
from llm_serving.native.core import ExtensionMissing
from llm_serving.native.measure import INSTRUCTIONS, MachineLimits, Rate


class Core:
    __file__ = "/somewhere/core.so"
    tiles = ""

    @staticmethod
    def isa() -> str:
        return "avx2"

    @classmethod
    def tile_set(cls) -> str:
        return cls.tiles


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor_checks, "load_core", lambda: Core)
    monkeypatch.setenv("LLM_SERVING_CACHE", str(tmp_path / "cache"))


def report(capsys: pytest.CaptureFixture[str], code: int) -> dict[str, dict[str, str]]:
    assert run(["doctor", "--json"]) == code
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] is (code == 0)
    return {check["name"]: check for check in result["checks"]}


def test_a_fresh_machine_is_fine_and_told_what_to_fetch(capsys: pytest.CaptureFixture[str]) -> None:
    checks = report(capsys, 0)
    assert " ".join(checks) == "python cpu isa engine memory cache disk pip model embedding choice"
    assert "no model yet" in checks["cache"]["text"]
    assert checks["model"]["status"] == "warning"
    assert "llm-serving models pull smollm2-135m-instruct" in checks["model"]["remedy"]
    assert "llm-serving models pull all-minilm-l6-v2" in checks["embedding"]["remedy"]
    assert "127.0.0.1:8001" in checks["choice"]["text"]


@pytest.mark.parametrize(
    ("tiles", "text"), [("", "avx2 (/"), ("amx", "avx2, amx for pictures and long texts (/")]
)
def test_what_the_engine_computes_with(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiles: str, text: str
) -> None:
    monkeypatch.setattr(Core, "tiles", tiles)
    assert f"native kernels: {text}" in report(capsys, 0)["engine"]["text"]


def test_a_missing_extension_is_a_problem(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ExtensionMissing("Not installed. Build it with: pip install -r requirements.txt")

    monkeypatch.setattr(doctor_checks, "load_core", missing)
    check = report(capsys, 1)["engine"]
    assert check["status"] == "problem"
    assert "pip install -r requirements.txt" in check["text"]


def test_no_pip_is_a_problem_only_while_something_must_be_fetched(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor_checks.importlib.util, "find_spec", lambda name: None)
    assert "ensurepip" in report(capsys, 1)["pip"]["remedy"]
    monkeypatch.setenv("LLM_SERVING_MODEL_NAME", str(tmp_path))
    assert report(capsys, 1)["pip"]["status"] == "warning"


def test_wrong_settings_and_unknown_models_are_problems(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_SERVING_MODEL_NAME", "nonsense")
    assert "'nonsense' does not exist" in report(capsys, 1)["model"]["text"]
    monkeypatch.setenv("LLM_SERVING_PORT", "x")
    assert "--port (LLM_SERVING_PORT)" in report(capsys, 1)["settings"]["text"]


def test_a_damaged_model_is_a_problem(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00")
    monkeypatch.setenv("LLM_SERVING_MODEL_NAME", str(path))
    assert report(capsys, 1)["model"]["status"] == "problem"


def test_embedding_models_and_rerankers_are_told_with_engine_and_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LLM_SERVING_EMBEDDING_MODEL", str(write_tiny_bert(tmp_path / "bert")))
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("LLM_SERVING_RERANKER_MODEL", str(tmp_path / "other"))
    checks = report(capsys, 1)
    assert checks["embedding"]["status"] == "ok"
    assert "the native engine, because it runs the family 'bert'" in checks["embedding"]["text"]
    assert checks["reranker"]["status"] == "problem"
    assert "classifier" not in checks
    monkeypatch.setenv("LLM_SERVING_CLASSIFIER_MODEL", str(tmp_path / "bert"))
    assert "is no classifier" in report(capsys, 1)["classifier"]["text"]
    monkeypatch.setenv("LLM_SERVING_CLASSIFIER_MODEL", str(write_tiny_deberta(tmp_path / "m", labels=3)))
    assert report(capsys, 1)["classifier"]["status"] == "ok"
    monkeypatch.setenv("LLM_SERVING_EMBEDDING_MODEL", "")
    monkeypatch.setenv("LLM_SERVING_RERANKER_MODEL", "nonsense")
    checks = report(capsys, 1)
    assert "embedding" not in checks
    assert "LLM_SERVING_RERANKER_MODEL" in checks["reranker"]["remedy"]


def test_further_models_are_told_one_by_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    llama = write_tiny_llama(tmp_path / "llama.gguf")
    monkeypatch.setenv("LLM_SERVING_FURTHER_MODELS", f"{llama}, nonsense, smollm2-135m-instruct")
    fine, wrong, absent = [check for check in all_checks(None) if check.name == "further"]
    assert fine.status == "ok"
    assert "the native engine, because it runs the family 'llama'" in fine.text
    assert wrong.status == "problem"
    assert "LLM_SERVING_FURTHER_MODELS" in wrong.remedy
    assert absent.status == "warning"
    assert "the first request for it fetches" in absent.text


def test_the_draft_model_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    llama = write_tiny_llama(tmp_path / "llama.gguf")
    for name, status in ((str(llama), "ok"), ("nonsense", "problem")):
        monkeypatch.setenv("LLM_SERVING_DRAFT_MODEL", name)
        [check] = [check for check in all_checks(None) if check.name == "draft"]
        assert check.status == status
    assert "LLM_SERVING_DRAFT_MODEL" in check.remedy


def test_adapters_are_told_one_by_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    llama = open_checkpoint(str(write_tiny_llama(tmp_path / "llama.gguf")))
    own = write_adapter(tmp_path / "own", llama, names=("q_proj", "v_proj"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("LLM_SERVING_LORA", f"fine={own},absent={tmp_path / 'nowhere'},far=owner/far")
    fine, absent, far = [check for check in all_checks(None) if check.name == "lora"]
    assert (far.status, far.remedy) == ("warning", "Fetch it now with: llm-serving models pull owner/far")
    assert (fine.status, "fine: 4 modules" in fine.text) == ("ok", True)
    assert (absent.status, "There is no such directory" in absent.text) == ("problem", True)
    assert "LLM_SERVING_LORA" in absent.remedy


def test_more_threads_than_are_granted_is_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_SERVING_THREADS", "1000")
    check = report(capsys, 0)["choice"]
    assert (check["status"], "1000 threads as set" in check["text"]) == ("warning", True)


def test_the_report_for_people_has_the_remedies(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    output = capsys.readouterr().out
    assert "ok       python" in output
    assert "→ Fetch it now with" in output


LIMITS = MachineLimits(
    threads=2,
    read_bytes=1 << 30,
    read=Rate(30e9, 36e9),
    peaks={**dict.fromkeys(INSTRUCTIONS), "vpmaddubsw": Rate(376e9, 750e9)},
)


def test_measured_limits_are_part_of_the_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_measure, "machine_limits", lambda threads, on_progress: LIMITS)
    assert run(["doctor", "--json", "--measure"]) == 0
    limits = json.loads(capsys.readouterr().out)["limits"]
    assert limits["read_gb_s"] == {"one_thread": 30.0, "all_threads": 36.0, "ratio": 1.2}
    assert set(limits["peak_gop_s"]) == set(INSTRUCTIONS)
    assert limits["peak_gop_s"]["vpmaddubsw"]["all_threads"] == 750.0
    assert limits["peak_gop_s"]["vpdpbusd"] is None
    assert limits["cores_are_real"] is True


def test_measured_limits_for_people(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_measure, "machine_limits", lambda threads, on_progress: LIMITS)
    assert run(["doctor", "--measure"]) == 0
    output = capsys.readouterr().out
    assert "750.0" in output
    assert [text for text in INSTRUCTIONS.values() if text in output] == [INSTRUCTIONS["vpmaddubsw"]]
    assert "The cores are real" in output
    shared = MachineLimits(2, 1 << 30, LIMITS.read, {**LIMITS.peaks, "vpmaddubsw": Rate(376e9, 380e9)})
    monkeypatch.setattr(doctor_measure, "machine_limits", lambda threads, on_progress: shared)
    assert run(["doctor", "--measure"]) == 0
    assert "share execution units" in capsys.readouterr().out
