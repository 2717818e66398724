"""The README's code runs as it stands there, but for the port."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llm_serving.cli.program import run

pytestmark = pytest.mark.model
README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def block(language: str, containing: str) -> str:
    found = [text for name, text in BLOCKS if name == language and containing in text]
    assert len(found) == 1, f"the README has {len(found)} {language} blocks with '{containing}'"
    return found[0]


def at(server: str, text: str) -> str:
    """The text with the README's address replaced by the test server's."""
    changed = re.sub(r"http://(localhost|127\.0\.0\.1):8001", server, text)
    assert changed != text
    return changed


def test_the_curl_answers(real_server: str) -> None:
    script = at(real_server, block("sh", "curl http"))
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, timeout=120, check=True)
    answer = json.loads(done.stdout)
    # Sampled, as a reader's will be: how long it is differs from run to run.
    assert answer["choices"][0]["message"]["content"].strip()
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 20


def test_the_python_client_streams(real_server: str) -> None:
    script = at(real_server, block("python", "stream=True"))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=180, check=True
    )
    assert done.stdout.strip()
    assert done.stderr == ""


def test_the_python_client_gets_json(real_server: str) -> None:
    script = at(real_server, block("python", "json_schema"))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=180, check=True
    )
    assert done.stdout.strip() == "['age', 'name']"


def test_the_python_client_embeds(real_server: str) -> None:
    script = at(real_server, block("python", "embeddings.create"))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["2", "384"]


def test_the_application_of_ones_own_compiles() -> None:
    compile(block("py", "lifespan=lifespan"), "README.md", "exec")


def test_every_command_of_the_readme_exists(capsys: pytest.CaptureFixture[str]) -> None:
    commands = {line.split()[1] for line in block("sh", "llm-serving doctor").splitlines()}
    assert commands == {"serve", "chat", "batch", "models", "doctor", "bench", "conformance"}
    for command in commands:
        assert run([command, "--help"]) == 0
    help_text = capsys.readouterr().out
    flags = set(re.findall(r"`(--[a-z-]+)`", README)) | {"--url", "--clients"}
    assert [flag for flag in sorted(flags) if flag not in help_text] == []
