"""`cleave curriculum rank CONFIG` and `cleave curriculum design CONFIG`: orders of a distill config's skills, before anything is trained.

    cleave curriculum design configs/distill/curriculum.yaml curriculum.skills=depth

A frozen model reads examples of each skill as training would see them; the distances between its states decide (arXiv 2211.15470). `rank`
scores every order of up to seven skills, `design` finds a good one of any number and says how to train with it. The section
`curriculum.designer` says which model, layer and distance. Results go to stdout. Left out: training.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import yaml

from cleave.config.curriculum import CurriculumConfig, DesignerConfig
from cleave.config.distill import DistillConfig
from cleave.config.model import ModelConfig
from cleave.console import print_table, progress, say
from cleave.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHOWN = 10
"""Orders at either end that are shown to people."""


@dataclass(frozen=True)
class Ranked:
    """An order of skills and the designer's score; `method` says who found it, '' where all were scored."""

    order: tuple[str, ...]
    score: float
    method: str = ""


def rank(config: DistillConfig, *, dry_run: bool = False, as_json: bool = False) -> int:
    """Score every order and show the best and the worst. Raises ConfigError for more skills than can be ranked."""
    from cleave.curriculum.designer import every_order, ranking

    skills, designer = checked(config)
    every_order(len(skills))
    if dry_run:
        return _plan(skills, designer)
    table = distances(config, skills, designer)
    orders, scores = ranking(table)
    found = [Ranked(tuple(skills[c] for c in order), float(score)) for order, score in zip(orders, scores, strict=True)]
    if as_json:
        print(json.dumps(_as_dict(skills, designer, table) | {"orders": [{"order": one.order, "score": one.score} for one in found]}))
        return 0
    _show_distances(skills, table)
    shown = [(str(k), one) for k, one in enumerate(found, start=1)]
    if len(shown) > 2 * SHOWN:
        shown = [*shown[:SHOWN], *shown[-SHOWN:]]
    rows = [[place, " → ".join(one.order), f"{one.score:.4f}"] for place, one in shown]
    print_table(["", "order", "score"], rows, title=f"The best and the worst of {len(found):,} orders", numbers=["", "score"])
    return 0


def design(config: DistillConfig, *, dry_run: bool = False, as_json: bool = False) -> int:
    """Design an order and show it with the options to train with it."""
    skills, designer = checked(config)
    if dry_run:
        return _plan(skills, designer)
    table = distances(config, skills, designer)
    found = designed(skills, table, designer.beam)
    best = max(found, key=lambda one: one.score)
    if as_json:
        chosen = {"order": best.order, "score": best.score, "found": [asdict(one) for one in found]}
        print(json.dumps(_as_dict(skills, designer, table) | chosen))
        return 0
    _show_distances(skills, table)
    rows = [[one.method, " → ".join(one.order), f"{one.score:.4f}"] for one in found]
    print_table(["", "order", "score"], rows, title="Designed orders", numbers=["score"])
    print(as_section(config, best), end="")
    return 0


def as_section(config: DistillConfig, chosen: Ranked) -> str:
    """The section of a config of `cleave distill` that trains in this order, as YAML."""
    before = config.curriculum or CurriculumConfig()
    mixture = before.mixture if before.mixture in ("ordered", "cumulative") else "cumulative"
    section = {"skills": before.skills, "mixture": mixture, "order": list(chosen.order)}
    return yaml.safe_dump({"curriculum": section}, sort_keys=False, allow_unicode=True, default_flow_style=None, width=10_000)


def designed(skills: Sequence[str], table: npt.NDArray[np.float64], beam: int) -> list[Ranked]:
    """What each way of designing finds: the best of all orders where all can be scored, else a beam search; and the paper's greedy way."""
    from cleave.curriculum.designer import MOST_RANKED, beam_order, designer_scores, greedy_order, ranking

    if len(skills) <= MOST_RANKED:
        found = {"best of all": tuple(ranking(table)[0][0].tolist())}
    else:
        found = {f"beam of {beam}": beam_order(table, beam)}
    found["greedy"] = greedy_order(table)
    scores = designer_scores(table, list(found.values()))
    return [
        Ranked(tuple(skills[c] for c in order), float(score), method) for (method, order), score in zip(found.items(), scores, strict=True)
    ]


def checked(config: DistillConfig) -> tuple[list[str], DesignerConfig]:
    """The skills, and how they are compared. Reads data, no weights. Raises ConfigError for fewer than two skills and for a model or layer
    that is not there, DataError for data that cannot be read."""
    from cleave.curriculum.prototypes import check_layer
    from cleave.lm.checkpoint import load_skeleton
    from pipelines.assembly import build_data
    from pipelines.difficulty import unmeasured
    from pipelines.preflight import skeleton
    from pipelines.reconstruction import unranked
    from pipelines.start import local_name

    plain = _unmeasured_skills(unranked(unmeasured(config)))
    _, tokenizer = skeleton(plain)
    skills = list(build_data(plain, tokenizer).sources)
    if len(skills) < 2:
        raise ConfigError(f"{skills[0]!r} is the only skill, and one skill has no order; set curriculum.skills=depth, or name more tasks.")
    designer = config.curriculum.designer if config.curriculum is not None else DesignerConfig()
    named = model_of(config, designer)
    check_layer(load_skeleton(local_name(named), revision=named.revision)[0], designer.layer)
    return skills, designer


def distances(config: DistillConfig, skills: Sequence[str], designer: DesignerConfig) -> npt.NDArray[np.float64]:
    """How far the skills are from each other in what the model makes of their examples."""
    from cleave.curriculum.distances import skill_distances
    from cleave.curriculum.prototypes import hidden_states
    from pipelines.assembly import build_data
    from pipelines.reconstruction import unranked

    model, tokenizer = load_frozen(config, designer)
    sources = build_data(_unmeasured_skills(unranked(config)), tokenizer).sources
    states = {}
    with progress("skills read", len(skills)) as shown:
        for skill in skills:
            some = sources[skill].examples(designer.examples)
            options: dict[str, Any] = {"layer": designer.layer, "pooling": designer.pooling}
            states[skill] = hidden_states(model, some, pad_id=tokenizer.pad_token_id or 0, **options)
            shown.advance(1, skill)
    return skill_distances(states, designer.distance)


def load_frozen(config: DistillConfig, designer: DesignerConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that compares skills, in evaluation mode, and its own tokenizer."""
    import torch

    from pipelines.start import load_weights

    model, tokenizer = load_weights(model_of(config, designer))
    if designer.random_weights:
        torch.manual_seed(config.seed)
        model = type(model)(model.config)
    return model.train(False), tokenizer


def model_of(config: DistillConfig, designer: DesignerConfig) -> ModelConfig:
    """Which model compares the skills. Raises ConfigError where the config names none."""
    model = designer.model or config.init.model
    if model is None:
        raise ConfigError("a new model knows nothing of skills yet; name one in curriculum.designer.model, such as reference:base.")
    return model


def _unmeasured_skills(config: DistillConfig) -> DistillConfig:
    """The same without held-out examples, which are not needed here."""
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"examples": 0, "skill_examples": 0})})


def _plan(skills: Sequence[str], designer: DesignerConfig) -> int:
    say(f"{len(skills)} skills: {', '.join(skills)}; {designer.examples} examples each, {designer.distance} distance; nothing was started.")
    return 0


def _as_dict(skills: Sequence[str], designer: DesignerConfig, table: npt.NDArray[np.float64]) -> dict[str, Any]:
    return {"skills": list(skills), "designer": designer.model_dump(mode="json"), "distances": table.tolist()}


def _show_distances(skills: Sequence[str], table: npt.NDArray[np.float64]) -> None:
    rows = [[skill, *(f"{value:.3f}" for value in row)] for skill, row in zip(skills, table.tolist(), strict=True)]
    print_table(["distance", *skills], rows, title="How far skills are from each other", numbers=skills)
