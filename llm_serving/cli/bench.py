"""`llm-serving bench`: how fast is the engine here; with `--url`, how fast is a server under load."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llm_serving.cli.terminal import print_json, print_table

if TYPE_CHECKING:
    from llm_serving.cli.bench_engine import Rate
    from llm_serving.cli.bench_share import Share
    from llm_serving.native.measure import MachineLimits

DEFAULT_MODEL = "smollm2-135m-instruct"
_DECODE_STEPS = 24


def _sizes(ctx: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    """`128,512` → (128, 512)."""
    try:
        sizes = tuple(int(part) for part in value.split(",") if part.strip())
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise click.BadParameter("must be positive numbers, separated by commas", ctx, option)
    return sizes


@click.command("bench")
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--prefill",
    callback=_sizes,
    metavar="LIST",
    default="32,128,512",
    help="Engine: prompt lengths.  [32,128,512]",
)
@click.option(
    "--decode", callback=_sizes, metavar="LIST", default="1,4,16", help="Engine: sequences at once.  [1,4,16]"
)
@click.option("--context", type=click.IntRange(1), default=128, help="Engine: tokens before decode.  [128]")
@click.option("--threads", type=click.IntRange(0), default=0, help="Engine: threads; 0 = the CPU quota.")
@click.option("--repeats", type=click.IntRange(1, 100), default=3, help="Engine: times each.  [3]")
@click.option(
    "--limits", is_flag=True, help="Engine: measure the machine too, some seconds, and print our share."
)
@click.option("--url", help="Load this server instead, such as http://127.0.0.1:8001.")
@click.option("--clients", type=click.IntRange(1, 4096), default=4, help="Closed loop: clients.  [4]")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Open loop: requests/s, Poisson.")
@click.option("--requests", type=click.IntRange(1, 1_000_000), default=32, help="Measured requests.  [32]")
@click.option(
    "--warmup", type=click.IntRange(0, 10_000), default=2, help="Requests before, not counted.  [2]"
)
@click.option("--prompt-tokens", type=click.IntRange(1), default=128, help="Of each request, about.  [128]")
@click.option("--shared-prefix", type=click.IntRange(0), default=0, help="Of them, the same in all.  [0]")
@click.option("--max-tokens", type=click.IntRange(1), default=64, help="Tokens of each answer.  [64]")
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, help="Of each request.  [0]")
@click.option("--ignore-eos/--no-ignore-eos", default=True, help="Ask for answers of full length.  [on]")
@click.option("--seed", type=int, default=0, help="Of prompts and arrivals.  [0]")
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), default=120.0, help="Seconds for one.  [120]"
)
@click.option(
    "--duration", type=click.FloatRange(0, min_open=True), default=600.0, help="Start none later.  [600]"
)
@click.option("--api-key", help="Key to send.  [the first of LLM_SERVING_API_KEY]")
@click.option("--cache-dir", type=click.Path(path_type=Path, file_okay=False), help="Where models are kept.")
def command(model: str | None, as_json: bool, url: str | None, **options: Any) -> int:
    """Measure the engine in this process, or with --url a server under load.

    MODEL is a catalogue name or a GGUF path; with --url, the name that requests carry.
    """
    if url is not None:
        return _load(model, url, as_json, options)
    return _engine(model or DEFAULT_MODEL, as_json, options)


def _load(model: str | None, url: str, as_json: bool, options: dict[str, Any]) -> int:
    from llm_serving.cli.bench_http import parse_target
    from llm_serving.cli.bench_load import LoadPlan, run_load
    from llm_serving.cli.bench_report import print_summary, summarize
    from llm_serving.config import Settings

    plan = LoadPlan(
        requests=options["requests"],
        clients=options["clients"],
        rate=options["rate"],
        warmup=options["warmup"],
        model=model or "default",
        prompt_tokens=options["prompt_tokens"],
        shared_prefix=options["shared_prefix"],
        max_tokens=options["max_tokens"],
        temperature=options["temperature"],
        ignore_eos=options["ignore_eos"],
        seed=options["seed"],
        timeout_s=options["timeout"],
        duration_s=options["duration"],
    )
    target = parse_target(url, options["api_key"] or next(iter(Settings().api_key), None))
    summary = summarize(plan, asyncio.run(run_load(plan, target)))
    if as_json:
        print_json(summary)
    else:
        print_summary(summary)
    return 0 if summary["succeeded"] else 1


def _engine(model: str, as_json: bool, options: dict[str, Any]) -> int:
    from llm_serving.backends.native_backend import build_runner
    from llm_serving.checkpoints import open_checkpoint
    from llm_serving.cli.bench_engine import measure_decode, measure_prefill
    from llm_serving.cli.bench_share import share_of
    from llm_serving.cli.doctor_measure import measure
    from llm_serving.cli.terminal import fetch_progress
    from llm_serving.engine.protocol import EngineOptions
    from llm_serving.models import resolve_model

    with fetch_progress(model) as on_progress:
        path = resolve_model(model, cache_dir=options["cache_dir"], on_progress=on_progress)
    context = max(*options["prefill"], options["context"] + _DECODE_STEPS)
    runner = build_runner(
        open_checkpoint(path),
        EngineOptions(
            threads=options["threads"], context_length=context, max_concurrency=max(options["decode"])
        ),
    )
    try:
        if runner.limits.max_context < context:
            raise click.BadParameter(
                f"the model's context is {runner.limits.max_context} tokens, not {context}."
            )
        rates = [measure_prefill(runner, size, options["repeats"]) for size in options["prefill"]]
        rates += [
            measure_decode(runner, size, options["context"], _DECODE_STEPS, options["repeats"])
            for size in options["decode"]
        ]
        facts = {"model": model, "isa": runner.isa, "threads": runner.threads}
        shares = None
        if options["limits"]:
            limits = measure(runner.threads)
            shares = limits, [share_of(rate, runner.work, limits) for rate in rates]
    finally:
        runner.close()
    _print_rates(facts, rates, shares, as_json, options)
    return 0


def _print_rates(
    facts: dict[str, Any],
    rates: list[Rate],
    shares: tuple[MachineLimits, list[Share]] | None,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    from llm_serving.cli.bench_share import limits_line, share_cells
    from llm_serving.cli.doctor_measure import limits_as_json

    if as_json:
        report = {**facts, "context": options["context"], "rates": [asdict(rate) for rate in rates]}
        if shares is not None:
            limits, of_limits = shares
            report |= {"limits": limits_as_json(limits), "shares": [asdict(share) for share in of_limits]}
        print_json(report)
        return
    click.echo(
        f"{facts['model']} on {facts['isa']}, {facts['threads']} threads; tok/s, {options['repeats']} repeats"
    )
    headers = ["", "", "median", "best"]
    rows = [
        [rate.work, _what(rate.work, rate.size, options), f"{rate.median:.1f}", f"{rate.best:.1f}"]
        for rate in rates
    ]
    if shares is None:
        print_table(headers, rows, numbers_from=2)
        return
    limits, of_limits = shares
    headers += ["GOP/s", "of peak", "weights GB/s", "of reads"]
    rows = [[*row, *share_cells(share)] for row, share in zip(rows, of_limits, strict=True)]
    print_table(headers, rows, numbers_from=2)
    click.echo(f"\n{limits_line(limits)}")


def _what(work: str, size: int, options: dict[str, Any]) -> str:
    if work == "prefill":
        return f"{size} tokens"
    return f"{size} at once, after {options['context']} tokens"
