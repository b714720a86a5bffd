"""`cleave drafts PREFIX`: k continuations of a text from one pass of a local model.

    code = main("Question: Tovan has 24 pens.", model="reference:base", drafting=Drafting(k=3))

Results go to stdout. Left out: the method (decoding/superposed.py).
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path

from cleave.config.base import validate
from cleave.config.model import ModelConfig
from cleave.console import print_table
from cleave.decoding.draft import Draft, Drafting
from cleave.errors import DataError
from cleave.lm.build import build
from cleave.lm.protocol import require
from cleave.trace_view import printable
from cleave.types import Prompt

MODEL = "reference:base"
MOST_BYTES = 2**20


def main(prefix: str, *, model: str, drafting: Drafting, ngrams: Path | None = None, seed: int = 0, as_json: bool = False) -> int:
    """Draft continuations of `prefix` ('-': of stdin) and print them, best first. Raises ConfigError, DataError and GenerationError."""
    text = read_prefix(prefix)
    tables = {"ngrams": str(ngrams)} if ngrams is not None else {}
    config = validate(ModelConfig, {"short": model} | tables, "the model")
    drafts = asyncio.run(_drafts(config, Prompt(text=text, seed=seed), drafting))
    if as_json:
        print(json.dumps({"model": config.short, "prefix": text, "drafts": [_row(draft) for draft in drafts]}, ensure_ascii=False))
    else:
        print_drafts(drafts)
    return 0


async def _drafts(config: ModelConfig, prompt: Prompt, drafting: Drafting) -> list[Draft]:
    model = build(config)
    try:
        require(model, "drafts", purpose="`cleave drafts`")
        [drafts] = await model.drafts([prompt], drafting)
        return drafts
    finally:
        await model.aclose()


def read_prefix(prefix: str) -> str:
    """The text itself or, for '-', what stdin holds. Raises DataError for what is empty, too long or not UTF-8."""
    if prefix == "-":
        data = sys.stdin.buffer.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise DataError(f"the prefix is longer than {MOST_BYTES // 2**20} MiB; give a shorter one.")
        try:
            prefix = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError("the prefix is not UTF-8; save it as UTF-8.") from error
    if not prefix:
        raise DataError("the prefix is empty; give some text to continue.")
    return prefix


def print_drafts(drafts: list[Draft]) -> None:
    """One line per draft, line breaks shown as such."""
    rows = [(i, f"{draft.perplexity:.4g}", f"{draft.logprob:.3f}", len(draft.token_ids), draft.finish, shown(draft.text))
            for i, draft in enumerate(drafts, start=1)]  # fmt: skip
    print_table(
        ["#", "perplexity", "log-probability", "tokens", "ended by", "draft"],
        rows,
        numbers=("#", "perplexity", "log-probability", "tokens"),
    )


def shown(text: str) -> str:
    """A draft's text on one line: quoted, so that spaces at its ends are seen."""
    return json.dumps(printable(text), ensure_ascii=False)


def _row(draft: Draft) -> dict[str, object]:
    perplexity = draft.perplexity if math.isfinite(draft.perplexity) else None
    return asdict(draft) | {"logprob": draft.logprob, "perplexity": perplexity}
