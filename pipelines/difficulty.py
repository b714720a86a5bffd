"""Before training with `easy_to_hard.by: teacher_loss`: how hard the teacher finds each problem, measured once, stored in the run folder.

The loss is that of the teacher on the target of a problem's first example, in the teacher's own tokens. It is measured where training is
started, before any worker, because all workers have to agree on it to the last bit; they read what is there. A problem that is too long for
the teacher is the hardest. Left out: endless tasks, whose problems never come again: order those by depth.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from cleave.config.curriculum import EasyToHardConfig
from cleave.config.distill import DistillConfig
from cleave.config.model import ModelConfig
from cleave.console import progress, say
from cleave.errors import ConfigError
from cleave.examples import Example
from cleave.runs import RunFolder

DIFFICULTY = "difficulty.json"
"""In the run folder: loss in nats per token by problem id."""
_GROUP = 512


def difficulty_of(config: DistillConfig, wanted: EasyToHardConfig) -> Callable[[Example], float]:
    """How hard an example is. Raises ConfigError where `measure_difficulty` should have come before."""
    if wanted.by == "depth":
        return lambda example: float(example.depth)
    if wanted.by == "length":
        return lambda example: float(len(example))
    folder = RunFolder.open(config.storage_path, config.name)
    if not folder.exists(DIFFICULTY):
        raise ConfigError(f"{folder.location} has no {DIFFICULTY}; start training by `cleave distill`, which measures it first.")
    losses: dict[str, float] = json.loads(folder.read_text(DIFFICULTY))
    return lambda example: losses.get(example.problem_id, math.inf)


def measure_difficulty(config: DistillConfig, folder: RunFolder) -> None:
    """Store what training needs, unless it is there. Raises ConfigError for a teacher that cannot be loaded and for an endless task."""
    teacher = teacher_of(config)
    if teacher is None or folder.exists(DIFFICULTY):
        return
    from cleave.heldout import look_at
    from pipelines.assembly import build_data
    from pipelines.start import load_weights

    model, tokenizer = load_weights(teacher)
    losses: dict[str, float] = {}
    sources = build_data(config, tokenizer).sources
    check_finite(config, sources)
    examples = [example for source in sources.values() for example in source.chunk(0)]
    with progress(f"losses of {teacher.short}", len(examples)) as shown:
        for start in range(0, len(examples), _GROUP):
            some = examples[start : start + _GROUP]
            losses |= {each.example.problem_id: each.loss for each in look_at(model, some, tokenizer.pad_token_id or 0)}
            shown.advance(len(some))
    folder.write_text(DIFFICULTY, json.dumps(losses) + "\n")
    say(f"the losses of {len(losses):,} problems are in {folder.location}/{DIFFICULTY}.")


def teacher_of(config: DistillConfig) -> ModelConfig | None:
    """The model whose losses order the problems; None: no model's."""
    wanted = None if config.curriculum is None else config.curriculum.easy_to_hard
    return None if wanted is None else wanted.teacher


def check_teacher(config: DistillConfig) -> None:
    """The teacher is there. Reads no weights. Raises ConfigError."""
    from cleave.lm.checkpoint import load_skeleton
    from pipelines.start import local_name

    teacher = teacher_of(config)
    if teacher is not None:
        load_skeleton(local_name(teacher), revision=teacher.revision)


def check_finite(config: DistillConfig, sources: Mapping[str, Any]) -> None:
    """Raise ConfigError for problems that never come again, where the teacher's loss is to order them."""
    if teacher_of(config) is not None and (endless := [skill for skill, source in sources.items() if not source.ends]):
        raise ConfigError(
            f"{endless[0]} never ends, so its problems cannot be ranked by the teacher's loss; set easy_to_hard.by=depth, or collect first."
        )


def unmeasured(config: DistillConfig) -> DistillConfig:
    """The same without an order by the teacher's loss, for a look at the data that asks no model."""
    if config.curriculum is None or teacher_of(config) is None:
        return config
    return config.model_copy(update={"curriculum": config.curriculum.model_copy(update={"easy_to_hard": None})})
