"""The teachers whose distributions are learned: which there are, whether they fit the student, and the objective that compares with them.

Left out: the comparison itself (cleave/distribution_matching.py), storing distributions (capture.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cleave.config.distill import DistillConfig
from cleave.config.model import ModelConfig
from cleave.errors import ConfigError
from pipelines.start import check_length, compile_layers, local_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cleave.distribution_matching import LiveTeachers
    from cleave.objectives import Objective


def distinct_teachers(config: DistillConfig) -> list[ModelConfig]:
    """The run's teachers in the order in which its tasks name them; an example's `teacher` is a place in this list."""
    named = (config.objective.teacher_of(mix.title) for mix in config.tasks)
    return list(dict.fromkeys(teacher for teacher in named if teacher is not None))


def compared(config: DistillConfig) -> list[ModelConfig]:
    """Every model whose distributions are learned: the teachers, and the previous version where there is one."""
    previous = config.objective.previous
    return [*distinct_teachers(config), *([] if previous is None else [previous])]


def place_of_teacher(config: DistillConfig, task: str) -> int:
    """The place of a task's teacher among the run's; 0 without teachers."""
    teacher = config.objective.teacher_of(task)
    return 0 if teacher is None else distinct_teachers(config).index(teacher)


def build_objective(config: DistillConfig, tokenizer: PreTrainedTokenizerBase) -> Objective:
    """What training minimises. Loads the teachers unless their distributions are stored."""
    from cleave.distribution_matching import Compatible, DistributionMatching, StoredDistributions
    from cleave.objectives import CrossEntropy

    objective = config.objective
    if config.role == "verifier":
        return verdict_loss(config, tokenizer)
    if not objective.has_teacher:
        return CrossEntropy()
    if objective.top_k is not None:
        stored = StoredDistributions(beta=objective.beta, temperature=objective.temperature)
        return DistributionMatching(stored, cross_entropy=objective.cross_entropy_share)
    live = _live(config, distinct_teachers(config))
    teacher = live if objective.previous is None else Compatible(live, _live(config, [objective.previous]))
    return DistributionMatching(teacher, cross_entropy=objective.cross_entropy_share)


def _live(config: DistillConfig, teachers: Sequence[ModelConfig]) -> LiveTeachers:
    from cleave.distribution_matching import LiveTeachers

    models = [load_teacher(config, teacher) for teacher in teachers]
    if config.train.torch_compile:
        for model in models:
            compile_layers(model)
    return LiveTeachers(models, beta=config.objective.beta, temperature=config.objective.temperature)


def verdict_loss(config: DistillConfig, tokenizer: PreTrainedTokenizerBase) -> Objective:
    """What a verifier minimises."""
    from cleave.prompts import load_prompts
    from cleave.verdict_examples import VerdictTokens
    from cleave.verdict_loss import VerdictLoss, from_scalar

    judge, tokens = config.judge, VerdictTokens.of(tokenizer, load_prompts(config.prompts))
    return VerdictLoss(tokens, loss=judge.loss, margin=judge.margin, read=from_scalar if judge.head == "scalar" else None)


def load_teacher(config: DistillConfig, teacher: ModelConfig) -> PreTrainedModel:
    """A teacher's weights, with the kernels that the student runs with."""
    from cleave.lm.checkpoint import load_checkpoint

    model = load_checkpoint(
        local_name(teacher), revision=teacher.revision, dtype=teacher.dtype, device_map=teacher.device_map, adapter=teacher.adapter
    ).model
    model.set_attn_implementation(config.train.attn_implementation)
    return model


def check_teachers(config: DistillConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Every teacher has the student's vocabulary and end token, and room for its examples. Reads no weights. Raises ConfigError."""
    from cleave.lm.checkpoint import load_skeleton

    for teacher in compared(config):
        model, theirs = load_skeleton(local_name(teacher), revision=teacher.revision)
        difference = first_difference(tokenizer.get_vocab(), theirs.get_vocab())
        if difference is not None:
            raise ConfigError(
                f"the teacher {teacher.short} has another vocabulary than the student: {difference}; distributions are compared token by "
                "token, so start from a student with the teacher's tokenizer, or learn from its replies alone (remove the teacher)."
            )
        if tokenizer.eos_token_id != theirs.eos_token_id:
            raise ConfigError(
                f"the teacher {teacher.short} ends its replies with {theirs.eos_token!r}, the student with {tokenizer.eos_token!r}, so it "
                "would unlearn to end; set eos_token alike in both tokenizer_config.json."
            )
        try:
            check_length(model, config.train.max_length)
        except ConfigError as error:
            raise ConfigError(f"the teacher {teacher.short} cannot read the student's examples: {error}") from error


def first_difference(student: Mapping[str, int], teacher: Mapping[str, int]) -> str | None:
    """The lowest token id that two vocabularies do not share, in words; None where they are the same."""
    mine, theirs = ({place: token for token, place in vocabulary.items()} for vocabulary in (student, teacher))
    for place in sorted(mine.keys() | theirs.keys()):
        if mine.get(place) != theirs.get(place):
            return f"id {place} is {_named(mine.get(place))} for the student and {_named(theirs.get(place))} for the teacher"
    return None


def live_teachers(config: DistillConfig) -> dict[str, str]:
    """The revisions of teachers that run along, by their names. Stored distributions have that of theirs beside them."""
    return {teacher.short: revision_of(teacher) for teacher in compared(config)}


def revision_of(teacher: ModelConfig) -> str:
    """Which weights these are: the hash of a folder or the Hub's commit, with that of an adapter. Reads no weights into memory."""
    from cleave.lm.checkpoint import load_skeleton
    from cleave.lm.revision import folder_revision, local_revision

    if (known := local_revision(teacher)) is not None:
        return known
    model, _ = load_skeleton(local_name(teacher), revision=teacher.revision)
    commit = str(model.config._commit_hash)
    return commit if teacher.adapter is None else f"{commit}+{folder_revision(teacher.adapter)}"


def _named(token: str | None) -> str:
    return "no token" if token is None else repr(token)
