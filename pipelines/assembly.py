"""From a distill config to a trainer: sources, sampler, stream, arguments, held-out measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleave.config.distill import DistillConfig, TaskMix
from cleave.console import say
from cleave.curriculum.sampler import Sampler, Stage, StagedSampler
from cleave.examples import Encoder, Example
from cleave.prompts import load_prompts
from cleave.screening import Counts
from cleave.seeds import derive_seed
from cleave.tasks.registry import get_task
from cleave.verdict_examples import VerdictEncoder
from pipelines.curriculum import build_curriculum
from pipelines.judged import JudgedSource, check_judged, judged, split, with_extras
from pipelines.pruned import build_gates
from pipelines.screened import collected
from pipelines.skills import Skill, skills_of
from pipelines.sources import ExampleSource, Supply, held_out, supply_of
from pipelines.start import add_lora, compile_layers, load_start
from pipelines.teachers import build_objective, place_of_teacher

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainingArguments

    from cleave.objectives import Objective
    from cleave.on_policy import OwnReplies
    from cleave.stream import StepStream
    from cleave.training import Measure, RoleTrainer


@dataclass(frozen=True)
class Data:
    """What is trained on and what is measured on.

    `sources` are by skill, which is the task's label unless a curriculum divides tasks. `screening`: what became of a collection's traces,
    by task. `shares`: how often each skill is drawn where a curriculum does not say otherwise. `skills`: held-out examples by skill, where
    skills are measured.
    """

    sources: dict[str, ExampleSource | JudgedSource]
    held_out: list[Example]
    screening: dict[str, Counts]
    shares: dict[str, float]
    skills: dict[str, list[Example]] = field(default_factory=dict)


def build_data(config: DistillConfig, tokenizer: PreTrainedTokenizerBase) -> Data:
    """Sources, and the held-out examples, which do not depend on the run's seed."""
    if config.role == "verifier":
        return _judged_data(config, tokenizer)
    prompts = load_prompts(config.prompts)
    encoder = Encoder(tokenizer, config.train.max_length)
    sources: dict[str, ExampleSource | JudgedSource] = {}
    measured: list[ExampleSource] = []
    screening: dict[str, Counts] = {}
    shares: dict[str, float] = {}
    by_skill: dict[str, list[Example]] = {}
    for mix in config.tasks:
        shared: dict[str, Any] = {"prompts": prompts, "formats": mix.formats or config.mix, "encoder": encoder}
        shared["teacher"] = place_of_teacher(config, mix.title)
        trained, held = _supplies(config, mix, screening)
        for skill in skills_of(config.curriculum, mix, trained, held):
            named = shared | {"skill": None if config.curriculum is None else skill.name}
            sources[skill.name] = ExampleSource(skill.trained, seed=derive_seed("train", config.seed, skill.name), **named)
            shares[skill.name] = skill.weight
            by_skill |= _measured(skill, config.evaluation.skill_examples, shared)
        if held is not None and mix.weight > 0 and config.evaluation.examples:
            measured.append(ExampleSource(held, seed=derive_seed("held out", mix.title), **shared))
    return Data(sources, held_out(measured, config.evaluation.examples) if measured else [], screening, shares, by_skill)


def _measured(skill: Skill, count: int, shared: dict[str, Any]) -> dict[str, list[Example]]:
    """The held-out examples of one skill; nothing where it has none."""
    if not count or skill.held_out is None:
        return {}
    found = ExampleSource(skill.held_out, seed=derive_seed("held out", skill.name), **shared).examples(count)
    if not found:
        say(f"{skill.name} has no held-out examples and is not measured.")
    return {skill.name: found} if found else {}


def _judged_data(config: DistillConfig, tokenizer: PreTrainedTokenizerBase) -> Data:
    """The same for a verifier."""
    encoder = VerdictEncoder(tokenizer, load_prompts(config.prompts), config.train.max_length)
    sources: dict[str, ExampleSource | JudgedSource] = {}
    measured: list[JudgedSource] = []
    for mix in config.tasks:
        traces = mix.collection or config.collection
        assert traces is not None
        trained, held = split(judged(traces, mix.title, get_task(mix.task)), traces)
        check_judged(traces, mix.title, trained, config.judge)
        trained = with_extras(trained, mix.title, config.judge)
        sources[mix.title] = JudgedSource(mix.title, trained, config.judge, encoder, derive_seed("train", config.seed, mix.title))
        if held and mix.weight > 0 and config.evaluation.examples:
            measured.append(JudgedSource(mix.title, held, config.judge, encoder, derive_seed("held out", mix.title)))
    shares = {mix.title: mix.weight for mix in config.tasks}
    return Data(sources, held_out(measured, config.evaluation.examples) if measured else [], {}, shares)


def _supplies(config: DistillConfig, mix: TaskMix, screening: dict[str, Counts]) -> tuple[Supply, Supply | None]:
    """The problems of one task to train on, and those to measure on."""
    task = get_task(mix.task)
    traces = mix.collection or config.collection
    if traces is None:
        return supply_of(task, mix.split), None if mix.eval_split is None else supply_of(task, mix.eval_split)
    shelves = collected(traces, mix.title, task, mix.formats or config.mix)
    screening[mix.title] = shelves.counts
    return shelves.trained, shelves.held_out


def build_sampler(config: DistillConfig, data: Data, workers: int) -> Sampler:
    """The order of training; the same for all workers, `workers` being those of a full group."""
    train = config.train
    step_tokens = train.per_device_train_batch_tokens * train.gradient_accumulation_steps * workers
    total, seed = train.steps(workers) * step_tokens, derive_seed("order", config.seed)
    if config.curriculum is not None:
        return build_curriculum(config, data.sources, data.shares, total_tokens=total, seed=seed)
    stages = [Stage(**stage.model_dump()) for stage in config.stages]
    return StagedSampler(data.sources, total_tokens=total, seed=seed, weights=data.shares, stages=stages)


def build_trainer(
    config: DistillConfig,
    folder: Path,
    *,
    rank: int = 0,
    world_size: int = 1,
    callbacks: Sequence[TrainerCallback] = (),
    distributions: Sequence[str] = (),
) -> tuple[RoleTrainer, Data]:
    """A trainer that keeps its checkpoints in `folder`, ready for `fit`. `distributions` is what `capture` returned."""
    from cleave.callbacks import check_trackers
    from cleave.stream import StepStream
    from cleave.training import RoleTrainer
    from pipelines.capture import with_distributions

    train = config.train
    check_trackers(train.report_to)
    model, tokenizer = load_start(config)
    data = with_distributions(config, build_data(config, tokenizer), distributions)
    sampler = build_sampler(config, data, config.max_workers)
    stream = StepStream(
        sampler,
        batch_tokens=train.per_device_train_batch_tokens,
        accumulation=train.gradient_accumulation_steps,
        pad_id=tokenizer.pad_token_id or 0,
        max_length=train.max_length,
        packing=train.packing,
        rank=rank,
        world_size=world_size,
        workers=(config.min_workers, config.max_workers),
    )
    objective = build_objective(config, tokenizer)
    measure, asking = measurement(config, data, objective, tokenizer, sampler)
    model, gates, freezing = build_gates(config, model, tokenizer.pad_token_id or 0, data.held_out)
    callbacks = [*callbacks, *freezing, *asking, *beside(config, stream, objective)]
    if train.torch_compile:
        compile_layers(model)
    trainer = RoleTrainer(
        add_lora(model, config.lora) if config.lora else model,
        training_arguments(config, folder, stream.passes),
        stream=stream,
        objective=objective,
        tokenizer=tokenizer,
        gates=gates,
        measure=measure,
        best_metric=config.evaluation.metric_for_best_model,
        callbacks=callbacks,
    )
    if config.objective.lmbda > 0:
        stream.own_replies = own_replies(config, trainer, tokenizer)
    return trainer, data


def measurement(
    config: DistillConfig, data: Data, objective: Objective, tokenizer: PreTrainedTokenizerBase, sampler: Sampler
) -> tuple[Measure | None, list[TrainerCallback]]:
    """What is measured on held-out examples, None for nothing, and the callbacks that ask for it."""
    from cleave.callbacks import EvaluateEvery, EvaluateStages
    from cleave.heldout import HeldOut, SkillAccuracy

    evaluation = config.evaluation
    if not data.held_out:
        return None, []
    generate = 0 if config.role == "verifier" else evaluation.generate
    whole = HeldOut(data.held_out, objective, tokenizer, generate=generate, max_new_tokens=evaluation.max_new_tokens)
    every = EvaluateEvery(evaluation.eval_steps)
    if not data.skills:
        return whole, [every]
    stages = EvaluateStages(lambda: sampler.progress, sampler.ends)
    skills = SkillAccuracy(data.skills, pad_id=tokenizer.pad_token_id or 0, finished=stages.finished)
    return lambda model: whole(model) | skills(model), [every, stages]


def beside(config: DistillConfig, stream: StepStream, objective: Objective) -> list[TrainerCallback]:
    """What else happens in a step: a sampler that listens is told how it went, embeddings are forgotten."""
    from cleave.curriculum.observer import Observer
    from cleave.forgetting import NoisyEmbeddings, ResetEmbeddings

    found: list[TrainerCallback] = [Observer(stream, objective)] if stream.sampler.listens else []
    forgetting = config.forgetting
    if forgetting is None:
        return found
    if forgetting.kind == "reset":
        return [*found, ResetEmbeddings(every=forgetting.every, steps=forgetting.steps, seed=config.seed)]
    return [*found, NoisyEmbeddings(stream, share=forgetting.share, steps=forgetting.steps, seed=config.seed)]


def own_replies(config: DistillConfig, trainer: RoleTrainer, tokenizer: PreTrainedTokenizerBase) -> OwnReplies:
    """The student in training as the writer of targets."""
    from cleave.on_policy import OwnReplies

    objective = config.objective
    student: Any = trainer.model
    return OwnReplies(
        student,
        tokenizer,
        share=objective.lmbda,
        temperature=objective.sampling_temperature,
        max_new_tokens=objective.max_new_tokens,
        max_length=config.train.max_length,
        seed=config.seed,
    )


def training_arguments(config: DistillConfig, folder: Path, passes: int) -> TrainingArguments:
    """Hugging Face's arguments; `passes` are the forward passes of a worker per step. TensorBoard is added as a callback, evaluation is
    asked for by EvaluateEvery."""
    import torch
    from transformers import TrainingArguments

    train, steps = config.train, config.train.steps(config.max_workers)
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        gradient_accumulation_steps=passes,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.lr_scheduler_type,
        lr_scheduler_kwargs=dict(train.lr_scheduler_kwargs),
        warmup_steps=round(train.warmup_ratio * steps),
        optim=train.optim,
        adam_beta2=train.adam_beta2,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        bf16=train.bf16,
        activation_checkpointing=train.gradient_checkpointing or None,
        fsdp=train.fsdp or None,
        fsdp_config=dict(train.fsdp_config) if train.fsdp else None,
        logging_steps=train.logging_steps,
        save_steps=train.save_steps,
        save_total_limit=train.save_total_limit,
        report_to=[name for name in train.report_to if name != "tensorboard"],
        run_name=config.name,
        disable_tqdm=True,
        ignore_data_skip=True,
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        seed=config.seed,
    )
