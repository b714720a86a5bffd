"""What `cleave distill` trains, on what, from where, and where it runs. Names are Hugging Face's and Ray's where they mean the same."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cleave.config.base import Config
from cleave.config.curriculum import CurriculumConfig, ForgettingConfig
from cleave.config.formats import DEFAULT_FORMATS, DRAWN_FORMATS, Format, TrainedRole
from cleave.config.judge import JudgeConfig
from cleave.config.objective import ObjectiveConfig
from cleave.config.prune import PruneConfig
from cleave.config.screening import CollectionConfig
from cleave.config.start import InitConfig, LoraConfig
from cleave.config.task import TaskConfig
from cleave.config.train import TrainConfig, TrainEvalConfig


class TaskMix(Config):
    """One task and its share of the examples."""

    task: TaskConfig
    """The task: its name, or a mapping with its options."""
    label: str | None = None
    """How stages and manifests call it; null: the task's name. Labels differ within a run."""
    weight: float = Field(1.0, ge=0)
    """Relative share of examples drawn from this task."""
    split: str = "train"
    """Split that is trained on."""
    eval_split: str | None = "validation"
    """Split of the held-out loss and exact match; null: this task is not evaluated during training."""
    formats: dict[Format, float] = {}
    """Formats of this task alone; empty: the run's."""
    collection: CollectionConfig | None = None
    """Traces of this task alone; null: the run's."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: object) -> object:
        """`arithmetic` for {task: arithmetic}; {task: arithmetic, dials: …} for {task: {name: arithmetic, dials: …}}."""
        if isinstance(data, str):
            return {"task": data}
        if isinstance(data, dict) and "dials" in data and isinstance(data.get("task"), str):
            rest = {key: value for key, value in data.items() if key != "dials"}
            return rest | {"task": {"name": data["task"], "dials": data["dials"]}}
        return data

    @property
    def title(self) -> str:
        """The label, else the task's name."""
        return self.label or self.task.name


class StageConfig(Config):
    """A part of training with its own mixture. The last stage lasts to the end."""

    share: float = Field(1.0, gt=0)
    """Share of the training tokens, relative to the other stages."""
    weights: dict[str, float] | None = None
    """Weight by task label in this stage; null: those of `tasks`."""
    max_depth: int | None = Field(None, ge=0)
    """Deepest problem that is trained on, in reasoning levels; null: no limit."""
    max_length: int | None = Field(None, gt=0)
    """Longest example that is trained on, in tokens; null: train.max_length."""


class DistillConfig(Config):
    """Train one role. Run again with the same config to resume."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run; its folder is storage_path/name."""
    role: TrainedRole
    """What the model will be: decomposer, solver, verifier, or general (all formats; a base to start from)."""
    source: Literal["gold", "collection"] = "gold"
    """Where targets come from: gold, the tasks' own plans and steps; collection, a teacher's traces."""
    collection: CollectionConfig | None = None
    """Which traces, where a task does not say otherwise (source: collection only)."""
    tasks: tuple[TaskMix, ...] = Field(min_length=1)
    """Tasks to train on."""
    prompts: str = "reference-v1"
    """Prompt set: a shipped name or a YAML file."""
    formats: dict[Format, float] = Field(default_factory=dict)
    """Weight of each kind of example; empty: the role's default mix."""
    stages: tuple[StageConfig, ...] = (StageConfig(),)
    """Training in order, such as short problems first; for more than that see curriculum."""
    curriculum: CurriculumConfig | None = None
    """What is drawn when; null: the tasks' weights and stages."""
    init: InitConfig
    """Where training starts."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """What is minimised (a verifier: see judge)."""
    judge: JudgeConfig = JudgeConfig()
    """How a verifier learns (role: verifier only)."""
    train: TrainConfig = TrainConfig()
    """Optimisation."""
    evaluation: TrainEvalConfig = TrainEvalConfig()
    """Measurements during training."""
    lora: LoraConfig | None = None
    """Low-rank adapters; null: all weights are trained."""
    forgetting: ForgettingConfig | None = None
    """Embeddings that are lost early in training; null: none are."""
    prune: PruneConfig | None = None
    """What is removed from the model while it is trained; null: nothing."""
    seed: int = 0
    """Seed of the weights and of the data."""
    backend: Literal["inline", "ray"] = "inline"
    """inline: in this process, on the GPU if there is one; ray: Ray Train with num_workers workers."""
    num_workers: int | tuple[int, int] = 1
    """Workers of Ray Train (ray only); [fewest, most]: as many as the cluster has room for, changing while it trains. Steps are made for
    the most; fewer workers make more forward passes per step and end at the same weights."""
    elastic_resize_monitor_interval_s: float = Field(60.0, gt=0)
    """Seconds between two looks at whether there is room for more workers (num_workers: [fewest, most] only)."""
    resources_per_worker: dict[str, float] = Field(default_factory=lambda: {"CPU": 1.0})
    """What each worker reserves (ray only)."""
    max_failures: int = Field(3, ge=-1)
    """Times that Ray Train restarts dead workers from the last checkpoint; -1 without limit (ray only)."""
    num_threads: int | None = Field(None, gt=0)
    """Threads that torch computes with; null: what OMP_NUM_THREADS or the machine says (inline only)."""
    storage_path: str = "runs"
    """Folder of the run folders."""
    output_dir: str | None = None
    """Where the finished checkpoint goes; null: storage_path/name/checkpoint."""

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = [mix.title for mix in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError("a task occurs twice; give each its own label")
        for stage in self.stages:
            unknown = set(stage.weights or ()) - set(names)
            if unknown:
                raise ValueError(f"a stage weighs {sorted(unknown)[0]!r}, which is no task of this run; there are {', '.join(names)}")
        sections = [self.collection, *(mix.collection for mix in self.tasks)]
        needed = self.source == "collection"
        if any(sections) != needed or (needed and self.collection is None and None in sections[1:]):
            raise ValueError("source: collection and a section `collection` for every task belong together; give both or neither")
        if self.lora is not None and self.init.model is None:
            raise ValueError("lora trains adapters of an existing checkpoint; set init.model, or remove lora")
        return self

    @model_validator(mode="after")
    def _curriculum_fits(self) -> Self:
        if self.role == "verifier" and self.evaluation.skill_examples:
            raise ValueError("skills are measured by replies, and a verifier has none; set evaluation.skill_examples: 0")
        if self.curriculum is None:
            return self
        names = [mix.title for mix in self.tasks]
        if self.stages != (StageConfig(),):
            raise ValueError("stages and curriculum both say what is drawn when; keep one of them")
        if self.curriculum.skills == "task" and (unknown := sorted(self.curriculum.named_skills - set(names))):
            raise ValueError(f"curriculum names {unknown[0]!r}, which is no task of this run; there are {', '.join(names)}")
        easy_to_hard = self.curriculum.easy_to_hard
        by_teacher = easy_to_hard is not None and easy_to_hard.by == "teacher_loss"
        if self.role == "verifier" and (self.curriculum.skills != "task" or self.curriculum.observes or by_teacher):
            raise ValueError("a verifier's examples are ordered by task, depth and length only; set curriculum.skills: task without losses")
        if self.curriculum.observes and self.objective.lmbda == 1:
            raise ValueError("a step of the student's own replies tells a curriculum nothing; lower objective.lmbda below 1")
        return self

    @model_validator(mode="after")
    def _forgetting_fits(self) -> Self:
        if self.forgetting is not None and self.lora is not None:
            raise ValueError("adapters leave embeddings as they are, so there is nothing to forget; remove lora or forgetting")
        if self.forgetting is not None and self.train.fsdp:
            raise ValueError("forgetting draws whole embeddings, and FSDP shards them; set train.fsdp: false, or remove forgetting")
        return self

    @model_validator(mode="after")
    def _pruning_fits(self) -> Self:
        if self.prune is None:
            return self
        if self.lora is not None:
            raise ValueError("gates cut whole weights, and adapters leave them as they are; remove lora or prune")
        if self.prune.method != "consensus":
            return self
        for name in ("fsdp", "torch_compile", "gradient_checkpointing"):
            if getattr(self.train, name):
                raise ValueError(f"gates look into every layer as it runs; set train.{name}: false, or remove prune")
        return self

    @model_validator(mode="after")
    def _objective_fits(self) -> Self:
        objective, names = self.objective, [mix.title for mix in self.tasks]
        if unknown := sorted(set(objective.teachers) - set(names)):
            raise ValueError(f"objective.teachers names {unknown[0]!r}, which is no task of this run; there are {', '.join(names)}")
        if objective.has_teacher and objective.teacher is None and (missing := [name for name in names if name not in objective.teachers]):
            raise ValueError(f"{missing[0]!r} has no teacher; name it in objective.teachers, or set objective.teacher for the rest")
        if objective.lmbda > 0 and self.train.fsdp:
            raise ValueError("the student's own replies are sampled from whole weights; set train.fsdp: false, or objective.lmbda: 0")
        if objective.top_k is None:
            return self
        if self.source != "collection":
            raise ValueError("distributions are stored beside a collection; set source: collection, or remove objective.top_k")
        drawn = [name for mix in self.tasks for name, weight in (mix.formats or self.mix).items() if weight and name in DRAWN_FORMATS]
        if drawn:
            raise ValueError(f"the format {drawn[0]} shows another part each time and cannot be stored; remove it, or objective.top_k")
        return self

    @model_validator(mode="after")
    def _verifier_fits(self) -> Self:
        verifies = self.role == "verifier"
        formats = {name for mix in self.tasks for name, weight in (mix.formats or self.mix).items() if weight}
        if (verifies and formats != {"verify"}) or (not verifies and "verify" in formats):
            raise ValueError("the format verify and role: verifier belong together, without other formats")
        if not verifies and self.judge != JudgeConfig():
            raise ValueError("judge says how a verifier learns; set role: verifier, or remove it")
        if verifies and self.source != "collection":
            raise ValueError("a verifier learns from a solver's samples; collect them (reasoning.n above 1) and set source: collection")
        if verifies and self.objective.has_teacher:
            raise ValueError("a verifier has no teacher; remove objective.teacher")
        return self

    @model_validator(mode="after")
    def _workers_fit(self) -> Self:
        if not 1 <= self.min_workers <= self.max_workers:
            raise ValueError("num_workers is a number from 1 on, or [fewest, most]")
        if self.backend == "inline" and self.num_workers != 1:
            raise ValueError("the inline backend has one worker; set backend: ray or num_workers: 1")
        if self.train.fsdp and (self.backend == "inline" or not self.resources_per_worker.get("GPU")):
            raise ValueError("fsdp shards over the GPUs of workers; set backend: ray and resources_per_worker: {GPU: 1}, or fsdp: false")
        return self

    @property
    def has_scalar_head(self) -> bool:
        """Whether the model ends in one number instead of in text."""
        return self.role == "verifier" and self.judge.head == "scalar"

    @property
    def min_workers(self) -> int:
        """Workers without which training waits."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def max_workers(self) -> int:
        """Workers of a full group, for which steps are made."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]

    @property
    def mix(self) -> dict[Format, float]:
        """The formats with their weights."""
        return self.formats or DEFAULT_FORMATS[self.role]
