"""From the section `curriculum` of a distill config to a sampler.

The same config and data give the same sampler on every worker. Left out: which skills there are (skills.py), how hard a teacher finds a
problem (difficulty.py), and everything about samplers themselves (cleave/curriculum/).
"""

from __future__ import annotations

from collections.abc import Mapping

from cleave.config.curriculum import CurriculumConfig, EasyToHardConfig, PacingConfig
from cleave.config.distill import DistillConfig
from cleave.curriculum.admission import DepthGate, EasyToHard, Gate, LossGate
from cleave.curriculum.missing_skills import MissingSkills
from cleave.curriculum.mixed_sampler import MixedSampler
from cleave.curriculum.mixture import Cumulative, Mixture, Ordered, Scheduled
from cleave.curriculum.pacing import Pacing
from cleave.curriculum.sampler import Source
from cleave.errors import ConfigError
from pipelines.difficulty import difficulty_of


def build_curriculum(
    config: DistillConfig, sources: Mapping[str, Source], shares: Mapping[str, float], *, total_tokens: int, seed: int
) -> MixedSampler:
    """`shares` are the skills' weights where the mixture has none of its own. Raises ConfigError for a skill that is not there."""
    assert config.curriculum is not None
    mixture = mixture_of(config.curriculum, shares)
    gates = gates_of(config, sources)
    return MixedSampler(sources, mixture, total_tokens=total_tokens, seed=seed, gates=gates)


def mixture_of(curriculum: CurriculumConfig, shares: Mapping[str, float]) -> Mixture:
    """Which skill is drawn when. Skills are sorted inside, so that a shuffled curriculum of tasks draws what no curriculum draws."""
    if unknown := sorted(curriculum.named_skills - set(shares)):
        raise ConfigError(f"curriculum names {unknown[0]!r}, which is no skill of this run; there are {', '.join(shares)}.")
    order, pacing = curriculum.order or tuple(shares), pacing_of(curriculum.pacing)
    shares = dict(sorted(shares.items()))
    skills = list(shares)
    if curriculum.mixture == "ordered":
        return Ordered(skills, order, pacing)
    if curriculum.mixture == "cumulative":
        return Cumulative(shares, order, pacing)
    if curriculum.mixture == "scheduled":
        return Scheduled(skills, [(point.at, point.weights) for point in curriculum.schedule])
    if curriculum.mixture == "missing_skills":
        profile = curriculum.profile
        return MissingSkills(shares, every=profile.every, explore=profile.explore, by=profile.by, failed_above=profile.failed_above)
    return Mixture(shares)


def gates_of(config: DistillConfig, sources: Mapping[str, Source]) -> list[Gate]:
    """What is let in."""
    assert config.curriculum is not None
    gate, easy_to_hard = config.curriculum.gate, config.curriculum.easy_to_hard
    gates: list[Gate] = []
    if gate.min_depth is not None or gate.max_depth is not None:
        gates.append(DepthGate(gate.min_depth, gate.max_depth))
    if easy_to_hard is not None:
        gates.append(_easy_to_hard(config, easy_to_hard, sources))
    if gate.by_loss:
        gates.append(LossGate(gate.min_loss, gate.max_loss, per=gate.per, probe=gate.probe))
    return gates


def pacing_of(config: PacingConfig) -> Pacing:
    """The config's pacing."""
    return Pacing(config.shape, config.start, config.until)


def _easy_to_hard(config: DistillConfig, wanted: EasyToHardConfig, sources: Mapping[str, Source]) -> EasyToHard:
    difficulty = difficulty_of(config, wanted)
    known = {skill: [difficulty(example) for example in source.chunk(0)] for skill, source in sources.items()}
    return EasyToHard(difficulty, known, pacing_of(wanted.pacing))
