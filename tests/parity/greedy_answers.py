"""The real model's greedy answers to fixed prompts, kept in greedy.json.

They are the same on every machine. After a change that is meant to move them, read the new ones and
record them:  PYTHONPATH=.:tests:tests/native python tests/parity/greedy_answers.py
"""

from __future__ import annotations

import json
from pathlib import Path

import jinja2.sandbox
from real_model import real_model_path
from runner_driver import RunnerDriver

from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.checkpoints.chat_tokenizer import build_tokenizer
from llm_serving.engine.protocol import EngineOptions

RECORD = Path(__file__).with_name("greedy.json")
MAX_TOKENS = 96
PROMPTS = [
    "What is the capital of France?",
    "Explain in two sentences why the sky is blue.",
    "Write a short poem about the sea.",
    "List three tips for staying healthy.",
    "Translate to French: Good morning, my friend.",
    "Write a Python function that reverses a string.",
    "What is 7 plus 5?",
    "Tell me a story about a fox who could not sleep.",
    "Who wrote Romeo and Juliet?",
    "Why do cats purr? – a naïve question 🐈",
]


def greedy_answers(checkpoint: Checkpoint) -> dict[str, str]:
    """Each prompt, as the only message under the model's own chat template, and its answer."""
    tokenizer = build_tokenizer(checkpoint)
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(checkpoint.chat_template or "")
    texts = [
        template.render(messages=[{"role": "user", "content": prompt}], add_generation_prompt=True)
        for prompt in PROMPTS
    ]
    runner = build_runner(checkpoint, EngineOptions(context_length=512, max_concurrency=len(PROMPTS)))
    prompts = [tokenizer.encode_prompt(text) for text in texts]
    outputs = RunnerDriver(runner).greedy(prompts, MAX_TOKENS, frozenset(tokenizer.eos_ids))
    runner.close()
    return dict(zip(PROMPTS, map(tokenizer.decode, outputs), strict=True))


def recorded_answers() -> dict[str, str]:
    answers: dict[str, str] = json.loads(RECORD.read_text(encoding="utf-8"))
    return answers


if __name__ == "__main__":
    new = greedy_answers(open_checkpoint(str(real_model_path())))
    RECORD.write_text(json.dumps(new, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(RECORD.read_text(encoding="utf-8"))
