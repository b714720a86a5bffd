"""The verifier: solutions in, verdicts out. Which kind it is depends on the model.

A checkpoint that was trained as a verifier judges (judge.py), and so does any model that is asked to by `scoring: judge`; without a
model of its own, or by `scoring: likelihood`, solutions are scored by how likely a model finds them (likelihood.py).
"""

from __future__ import annotations

from actors.judge import Judge
from actors.likelihood import LikelihoodVerifier
from actors.role import checkpoint_folder, checkpoint_note, open_model, prompts_name
from cleave.calibration import VerifierCalibration
from cleave.config.roles import RoleConfig, VerifierConfig
from cleave.errors import ConfigError
from cleave.lm.build import build
from cleave.lm.protocol import LanguageModel
from cleave.prompts import load_prompts

DEFAULT_PROMPTS = "instruct-v4"
"""Of a judge that says nothing of its own."""

Verifier = Judge | LikelihoodVerifier


def build_verifier(config: VerifierConfig, model: LanguageModel | None = None) -> Verifier:
    """A verifier with a model of its own. Raises ConfigError where the model cannot do what it is asked for."""
    if scoring_of(config) == "likelihood":
        if config.step_scores:
            raise ConfigError("step_scores needs a verifier that judges; train one with judge.steps_per_problem, or set scoring: judge.")
        return LikelihoodVerifier(
            name=config.model.short,
            open_model=lambda: model if model is not None else build(config.model),
            prompts=load_prompts(prompts_name(config)),
            reuse=False,
        )
    opened, prompts = open_model(config, model, "the verifier", DEFAULT_PROMPTS)
    folder = checkpoint_folder(config.model)
    calibration = VerifierCalibration() if folder is None else VerifierCalibration.read(folder)
    return Judge(opened, prompts, calibration, config.max_tokens, step_scores=config.step_scores)


def build_likelihood(solver: RoleConfig, model: LanguageModel | None = None) -> LikelihoodVerifier:
    """The verifier of a cast that names none: what the solver itself said of its solutions. Its weights are loaded only for solutions that
    carry no log-probability."""
    return LikelihoodVerifier(
        name=solver.model.short,
        open_model=lambda: model if model is not None else build(solver.model),
        prompts=load_prompts(prompts_name(solver)),
        reuse=True,
    )


def scoring_of(config: VerifierConfig) -> str:
    """`scoring`, or what auto stands for."""
    if config.scoring != "auto":
        return config.scoring
    trained = checkpoint_note(config.model).get("role") == "verifier"
    return "judge" if trained or config.model.backend == "openai" else "likelihood"
