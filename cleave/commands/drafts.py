"""`cleave drafts`, `cleave ngrams build|info` and `cleave bench superposition`: several continuations at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cleave.commands.arguments import AsJson

ngrams_app = typer.Typer(help="Count n-grams for drafts, and show what was counted.")
bench_app = typer.Typer(help="Measure what a model supports.")

MODEL_HELP = "hf:PATH_OR_HUB_ID or reference:NAME."
SOURCES_HELP = "A .txt file (paragraphs), a .jsonl file (rows), or task:NAME/SPLIT."

Drafts = Annotated[int, typer.Option("-k", help="Drafts of a prefix.")]
Temperature = Annotated[float, typer.Option("--temperature", help="What logits are divided by, above 0.")]


def drafts(
    prefix: Annotated[str, typer.Argument(help="The text to continue; - reads it from stdin.")],
    k: Drafts = 3,
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help=MODEL_HELP)] = "reference:base",
    ngrams: Annotated[Path | None, typer.Option("--ngrams", metavar="PATH", help="n-gram tables that smooth the drafts.")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Most tokens of a draft.")] = 10,
    temperature: Temperature = 0.06,
    alpha: Annotated[float, typer.Option("--alpha", help="Weight of the n-grams, 0 to 1.")] = 0.54,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="A string that ends a draft; may be repeated.")] = None,
    reset_every: Annotated[int, typer.Option("--reset-every", help="Go on from one drawn draft after so many tokens; 0: never.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Seed of that draw.")] = 0,
    as_json: AsJson = False,
) -> int:
    """Continue a text in k ways for about the price of one (superposed decoding)."""
    from cleave.decoding.draft import Drafting
    from cleave.drafting import main

    drafting = Drafting(k=k, max_tokens=max_tokens, temperature=temperature, alpha=alpha, stop=tuple(stop or ()), reset_every=reset_every)
    return main(prefix, model=model, drafting=drafting, ngrams=ngrams, seed=seed, as_json=as_json)


@ngrams_app.command("build")
def ngrams_build(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"Whose tokens are counted: {MODEL_HELP}")],
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help=SOURCES_HELP)],
    to: Annotated[Path | None, typer.Option("--to", metavar="FOLDER", help="Where to; default runs/ngrams/HASH OF THE CONTENT.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Most texts or problems of each source.")] = None,
    max_order: Annotated[int, typer.Option("--max-order", help="Highest order, 2 to 6.")] = 6,
    field: Annotated[str, typer.Option("--field", help="The field of a .jsonl row that holds the text.")] = "text",
    prompts: Annotated[str, typer.Option("--prompts", help="Prompt set of plain text that problems are written with.")] = "reference-v1",
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes that count; default: one per core.")] = None,
    as_json: AsJson = False,
) -> int:
    """Count the n-grams of texts in a model's tokens."""
    from cleave.ngram_building import build_tables

    return build_tables(
        model, sources, to=to, limit=limit, max_order=max_order, field=field, prompts=prompts, workers=workers, as_json=as_json
    )


@ngrams_app.command("info")
def ngrams_info(folder: Annotated[Path, typer.Argument(metavar="PATH", help="A folder of tables.")], as_json: AsJson = False) -> int:
    """Check tables and show what they hold."""
    from cleave.ngram_building import show_tables

    return show_tables(folder, as_json=as_json)


@bench_app.command("superposition")
def bench_superposition(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    sources: Annotated[list[str] | None, typer.Argument(metavar="[SOURCE]...", help=f"{SOURCES_HELP} Default: arithmetic.")] = None,
    k: Drafts = 3,
    steps: Annotated[int, typer.Option("--steps", help="Draft length up to which to measure.")] = 20,
    prompts: Annotated[int, typer.Option("--prompts", min=2, help="Number of prefixes.")] = 128,
    prefix_tokens: Annotated[int, typer.Option("--prefix-tokens", min=1, help="Tokens of a prefix.")] = 15,
    after: Annotated[str | None, typer.Option("--after", metavar="TEXT", help="Cut prefixes after this text instead.")] = None,
    temperature: Temperature = 0.06,
    as_json: AsJson = False,
) -> int:
    """How like a superposition of drafts is to the drafts, by step: how long drafts may be."""
    from cleave.decoding.draft import Drafting
    from cleave.superposition_bench import SOURCE, main

    drafting = Drafting(k=k, max_tokens=steps, temperature=temperature)
    return main(model, sources or [SOURCE], drafting=drafting, prompts=prompts, prefix_tokens=prefix_tokens, after=after, as_json=as_json)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(drafts)
    app.add_typer(ngrams_app, name="ngrams")
    app.add_typer(bench_app, name="bench")
