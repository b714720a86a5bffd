"""`cleave ngrams build | info`: texts through a tokenizer into n-gram tables, and what tables hold.

    build_tables("reference:base", ["task:arithmetic/train"], limit=20_000)

Texts get the special tokens that prompts get, and the end token, so that drafts can end. Results go to stdout, progress to stderr.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from cleave.config.base import validate
from cleave.config.model import ModelConfig
from cleave.console import print_table, progress
from cleave.corpus import texts
from cleave.decoding.ngram_counts import build, shards_of
from cleave.decoding.ngrams import HIGHEST, LOWEST, NgramTables, TableInfo
from cleave.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROOT = "runs/ngrams"
BATCH = 1000
"""Texts that are tokenised at a time, on all cores."""


def build_tables(
    model: str,
    sources: list[str],
    *,
    to: Path | None = None,
    limit: int | None = None,
    max_order: int = HIGHEST,
    field: str = "text",
    prompts: str = "reference-v1",
    workers: int | None = None,
    as_json: bool = False,
) -> int:
    """Count the n-grams of `sources` in tokens of `model` and print what there is and where. Raises ConfigError and DataError."""
    found = texts(sources, limit=limit, field=field, prompts=prompts)
    tokenizer = load_tokenizer(model)
    folder, name = (Path(ROOT), None) if to is None else (to.parent, to.name)
    with progress("count tokens") as bar:
        tables = build(
            folder,
            shards_of(encoded(tokenizer, found)),
            tokenizer.get_vocab(),
            model=model,
            sources=sources,
            name=name,
            max_order=max_order,
            workers=workers or os.cpu_count() or 1,
            on_tokens=bar.advance,
        )
    print_info(tables.info, tables.place, as_json=as_json)
    return 0


def show_tables(folder: Path, *, as_json: bool = False) -> int:
    """Check tables and print what they hold. Raises ConfigError and DataError."""
    print_info(NgramTables.open(folder).info, str(folder), as_json=as_json)
    return 0


def print_info(info: TableInfo, place: str, *, as_json: bool) -> None:
    if as_json:
        shown = {key: value for key, value in asdict(info).items() if key != "files"}
        print(json.dumps({"place": place, **shown, "bytes": info.bytes, "bytes_per_ngram": per_ngram(info)}, ensure_ascii=False))
        return
    print_table(["order", "distinct n-grams"], [(order, f"{many:,}") for order, many in enumerate(info.distinct, start=LOWEST)])
    print(f"{info.tokens:,} tokens in {info.texts:,} texts of {', '.join(info.sources)}, in tokens of {info.model}")
    print(f"{info.bytes:,} bytes, {per_ngram(info):.1f} per distinct n-gram")
    print(place)


def per_ngram(info: TableInfo) -> float:
    """Bytes on disk per distinct n-gram."""
    return info.bytes / max(1, sum(info.distinct))


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a local model, or one alone in a folder, by short string. Reads no weights. Raises ConfigError."""
    config = validate(ModelConfig, {"short": model}, "the model")
    if config.backend not in ("hf", "reference"):
        raise ConfigError(f"{config.short} shows no tokenizer; name a local model: hf:PATH or reference:NAME.")
    from transformers import AutoTokenizer

    from cleave.lm.reference import resolve

    name = str(resolve(config.model_name_or_path)) if config.backend == "reference" else config.model_name_or_path
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, revision=config.revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"cannot load the tokenizer of {model}: {' '.join(str(error).split())[:200]}; check the path.") from error
    return tokenizer


def encoded(tokenizer: PreTrainedTokenizerBase, found: Iterable[str]) -> Iterator[list[int]]:
    """Token ids of each text, ending in the end token where the tokenizer has one."""
    rest, end = iter(found), tokenizer.eos_token_id
    while some := list(islice(rest, BATCH)):
        for ids in tokenizer(some, verbose=False)["input_ids"]:
            yield ids if end is None or ids[-1:] == [end] else [*ids, end]
