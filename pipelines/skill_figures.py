"""At the end of a training that measured skills: what was learned and forgotten from stage to stage, in figures and as a heat map."""

from __future__ import annotations

import json

from cleave.config.distill import DistillConfig
from cleave.curriculum.measures import StageTable, average_accuracy, f_score, forgetting, read_stages
from cleave.runs import METRICS, RunFolder

HEAT_MAP = "skills.svg"


def write_figures(config: DistillConfig, folder: RunFolder) -> dict[str, float]:
    """Draw the heat map into the run folder. Returns what result.json is told: the average accuracy over all skills and, where one skill
    came after another, forgetting and F of arXiv 2211.15470; nothing where no skill was measured."""
    table = read_stages(json.loads(line) for line in folder.read_text(METRICS).splitlines())
    if table is None or not table.steps:
        return {}
    from cleave.stage_figures import accuracy_by_stage

    folder.write_text(HEAT_MAP, accuracy_by_stage(table) + "\n")
    return figures(config, table)


def figures(config: DistillConfig, table: StageTable) -> dict[str, float]:
    """α, and β and F where there is a first skill that could be forgotten."""
    alpha = average_accuracy(table.accuracy)
    curriculum = config.curriculum
    if curriculum is None or curriculum.mixture not in ("ordered", "cumulative"):
        return {"average_accuracy": alpha}
    first = curriculum.order[0] if curriculum.order else table.skills[0]
    if first not in table.skills:
        return {"average_accuracy": alpha}
    beta = forgetting(table.accuracy, table.skills.index(first))
    return {"average_accuracy": alpha, "forgetting": beta, "f_score": f_score(alpha, beta)}
