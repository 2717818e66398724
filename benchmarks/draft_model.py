"""What does a draft model give: one user's answers with and without, by how often the two models agree.

    python benchmarks/draft_model.py --size 3b --noise 0.05,0.2,0.35 --folder ~/.cache/llm-serving-bench

Models of `draft_files.py`. The engine alone, no HTTP: output tokens a second behind the first, of one
sequence that continues real English or answers a question, greedily or at a temperature. `agreement` is how
often both models find the same token likeliest behind the same real text. Every answer is compared with the
plain one, token by token. Prints Markdown. Where others compute beside it, tokens a CPU second say more.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from draft_files import write_disturbed, write_padded
from english import passage
from results import Deadline, Results, publish, turns

from llm_serving.backends.native_backend import build_draft_runner, build_runner
from llm_serving.backends.native_draft import open_draft
from llm_serving.checkpoints import build_tokenizer, open_checkpoint
from llm_serving.engine.core import EngineCore
from llm_serving.engine.draft_model import DraftModel
from llm_serving.engine.protocol import EngineOptions, Step
from llm_serving.engine.request import GenerateRequest, SamplingParams, TokenEvent
from llm_serving.models import resolve_model
from llm_serving.native.cpu import cpu_budget
from llm_serving.native.runner import NativeRunner
from llm_serving.native.sampler import NativeSampler

SIZES = {"135m": 1536, "1.5b": 27648, "3b": 57344}  # intermediate sizes; 30 layers of 576
QUESTIONS = ["Why is the sky blue? Explain it at length.", "Tell me a story of a lighthouse and a storm."]
PLAIN, LOOKUP = "without guesses", "by the text alone"
CONTEXT = 1024


class Bench:
    """One large model, and the small ones that guess for it."""

    def __init__(self, large: Path, small: dict[str, Path], threads: int, cache: Path) -> None:
        self.options = EngineOptions(
            threads=threads,
            context_length=CONTEXT,
            max_concurrency=2,
            packed_dir=cache,
            packed_bytes=16 << 30,
        )
        checkpoint = open_checkpoint(large)
        self.tokenizer = build_tokenizer(checkpoint)
        self.large = build_runner(checkpoint, self.options)
        self.sampler = NativeSampler(threads, self.large.isa)
        self.small = {name: self._small(path) for name, path in small.items()}
        token_bytes, vocabulary = self.tokenizer.token_bytes, self.large.limits.vocab_size
        self.drafts = {name: DraftModel(each, self.sampler, vocabulary) for name, each in self.small.items()}
        self.core = EngineCore(self.large, self.sampler, token_bytes, self.options, print, print)

    def _small(self, path: Path) -> NativeRunner:
        draft = open_draft(replace(self.options, draft_model=path))
        assert draft is not None, "the options name it"
        return build_draft_runner(draft, self.options, self.large)

    def answer(self, name: str, prompt: str, params: SamplingParams) -> tuple[float, float, list[int]]:
        """Behind the first token: tokens a second, tokens a CPU second; the tokens. `name`: who guesses."""
        core = self.core
        core.scheduler.speculates = name != PLAIN
        core.scheduler.drafting.model = self.drafts.get(name)
        core.submit(GenerateRequest("answer", self.tokenizer.encode_prompt(prompt), params))
        events: list[TokenEvent] = []
        while not events:
            events += core.step()
        begin, begin_cpu = time.perf_counter(), time.process_time()
        while core.scheduler.has_work:
            events += core.step()
        tokens = [token for event in events for token in event.token_ids]
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - begin_cpu
        return (len(tokens) - 1) / seconds, (len(tokens) - 1) / cpu_seconds, tokens

    def costs(self) -> str:
        """What was learnt of the machine, in ms."""
        step = self.core.scheduler.budget.costs
        parts = [f"a step of 1, 2 and 8 rows {', '.join(f'{step.decode_s(n) * 1e3:.1f}' for n in (1, 2, 8))}"]
        parts += [
            f"{name}: a token {costs.decode_s(1) * 1e3:.1f}, to read {costs.prompt_token_s * 1e3:.2f}"
            for name, costs in ((name, draft.costs) for name, draft in self.drafts.items())
        ]
        return "; ".join(parts)

    def likeliest(self, runner: NativeRunner, ids: list[int]) -> np.ndarray:
        """int [tokens]: what comes next behind each of them, for sure."""
        blocks = -(-len(ids) // runner.limits.block_size)
        rows = np.arange(len(ids), dtype=np.int32)
        table = np.arange(blocks, dtype=np.int32)[None]
        step = Step(np.array(ids, np.int32), rows, np.array([0, len(ids)], np.int32), table, rows)
        best: np.ndarray = runner.run(step).argmax(axis=1)
        return best

    def agreement(self, name: str) -> float:
        """Over 1500 tokens of real text."""
        same = 0
        for seed in (11, 12, 13):
            ids = self.tokenizer.encode(passage(500, seed))[:500]
            same += int((self.likeliest(self.large, ids) == self.likeliest(self.small[name], ids)).sum())
        return same / 1500


def chat(prompt: str) -> str:
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


def prompts() -> dict[str, str]:
    asked = {f"question {i}": chat(question) for i, question in enumerate(QUESTIONS, 1)}
    return {**asked, "real text": passage(150, 3)}


def measure(
    bench: Bench,
    names: list[str],
    row: str,
    prompt: str,
    params: SamplingParams,
    speed: Results,
    accepted: Results,
) -> None:
    """One answer by each, in turns. Raises: SystemExit if one differs from the others."""
    said = []
    for name in turns(names, params.seed):
        before = bench.core.stats("")
        rate, cpu_rate, tokens = bench.answer(name, prompt, params)
        after = bench.core.stats("")
        said.append(tokens)
        speed.add(row, name, rate)
        speed.add(f"{row}, by CPU seconds", name, cpu_rate)
        if name != PLAIN:
            drafted = after.num_drafted_tokens - before.num_drafted_tokens
            held = after.num_accepted_tokens - before.num_accepted_tokens
            accepted.add(f"{row}: drafted", name, drafted)
            accepted.add(f"{row}: share", name, held / drafted if drafted else None)
    if any(tokens != said[0] for tokens in said):
        raise SystemExit(f"{row}: an answer differs")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="3b")
    parser.add_argument("--noise", type=lambda text: [float(x) for x in text.split(",")], default=[0.05, 0.2])
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "llm-serving-bench")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument(
        "--temperatures", type=lambda text: [float(x) for x in text.split(",")], default=[0, 0.7]
    )
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0, help="begin no row after these; 0: all repeats")
    parser.add_argument("--threads", type=int, default=cpu_budget().threads)
    parser.add_argument(
        "--agreement-only", action="store_true", help="measure that alone; it is the same at every size"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    source, deadline = Path(resolve_model("smollm2-135m-instruct")), Deadline(arguments.minutes)
    folder = arguments.folder
    large = write_padded(source, folder / f"padded-{arguments.size}.gguf", SIZES[arguments.size])
    small = {
        f"noise {noise:g}": write_disturbed(source, folder / f"disturbed-{noise:g}.gguf", noise)
        for noise in arguments.noise
    }
    bench = Bench(large, small, arguments.threads, folder / "packed")
    names = [PLAIN, LOOKUP, *small]
    agreement = Results("agreement behind real text", list(small), "", 2)
    for name in small if arguments.agreement_only else ():
        agreement.add("likeliest token", name, bench.agreement(name))
    speed = Results(f"{arguments.size}, output tok/s of one sequence", names, "")
    accepted = Results("drafted tokens, and of them accepted", names[1:], "", 2)
    for name in names if not arguments.agreement_only else ():
        bench.answer(name, chat("Hello!"), SamplingParams(24, temperature=0.0))
    for repeat in range(arguments.repeats if not arguments.agreement_only else 0):
        for temperature in arguments.temperatures:
            params = SamplingParams(arguments.tokens, temperature, seed=repeat)
            for row, prompt in prompts().items():
                if not deadline.is_over():
                    measure(
                        bench, names, f"{row}, temperature {temperature:g}", prompt, params, speed, accepted
                    )
    print(f"# ms: {bench.costs()}")
    tables = [agreement] if arguments.agreement_only else [speed, accepted]
    publish(tables, arguments.json, model=large.name)


if __name__ == "__main__":
    main()
