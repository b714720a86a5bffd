"""What `cleave distill` trains, on what, from where, and where it runs. Names are Hugging Face's and Ray's where they mean the same."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cleave.config.base import Config
from cleave.config.model import ModelConfig
from cleave.config.objective import ObjectiveConfig
from cleave.config.task import TaskConfig

TrainedRole = Literal["decomposer", "solver", "general"]
Format = Literal["decompose", "next_question", "steps_with_plan", "step", "next_answer", "single", "direct", "text", "reconstruct"]

DEFAULT_FORMATS: dict[TrainedRole, dict[Format, float]] = {
    "decomposer": {"decompose": 1.0},
    "solver": {"steps_with_plan": 1.0, "single": 1.0, "direct": 0.5},
    "general": {"decompose": 1.0, "steps_with_plan": 1.0, "single": 1.0, "direct": 0.5, "text": 0.5},
}

DRAWN_FORMATS: tuple[Format, ...] = ("next_question", "step", "next_answer")
"""Formats that show a part of the problem, another one each time."""


class ReconstructionConfig(Config):
    """The screen for answers that are right for the wrong reason (MIMAX, arXiv 2106.07174): of the traces that lead to the right answer of
    a problem, those are learned from that tell most about its question."""

    model: ModelConfig
    """Model that says how well a question follows from a trace, trained on the format reconstruct: hf:PATH_OR_HUB_ID or reference:NAME;
    workers of Ray Train need to see its folder."""
    prompts: str = "auto"
    """Prompt set with the form reconstruct: a shipped name, a YAML file, or auto (what the checkpoint was trained with)."""
    keep: int = Field(1, gt=0)
    """Traces that are learned from per problem, at most."""

    @model_validator(mode="after")
    def _can_score(self) -> Self:
        if self.model.backend not in ("hf", "reference"):
            raise ValueError(f"{self.model.short} gives no probability of a given text; name a model by hf:PATH or reference:NAME")
        return self


class CollectionConfig(Config):
    """Targets from a teacher's traces, gathered by `cleave collect`, and which of them are learned from."""

    path: str
    """Run folder of the collection."""
    also: tuple[str, ...] = ()
    """Further collections, each of one teacher, such as the teacher's beside the student's own."""
    mixture: Literal["all", "adaptive"] = "all"
    """all: whatever is kept of every collection; adaptive: of those in `also` only problems of which nothing was kept before
    (arXiv 2410.18574)."""
    recipe: str | None = None
    """Hash of the teacher, where the collection holds several; null: the only one."""
    keep: Literal["all", "answered"] = "answered"
    """all: every plan (S_D-T) or solution (S_E-T); answered: those that led to the right answer (S_D-R)."""
    answers: Literal["teacher", "gold"] = "teacher"
    """The final answer that is learned: the teacher's, or the problem's own with the teacher's steps (S_E-A)."""
    second_chance: bool = True
    """Keep a plan whose first solution is wrong for a later one that is right (answered only)."""
    reconstruction: ReconstructionConfig | None = None
    """Of all right traces of a problem learn from the most telling ones, whatever their plans; null: from the first of every plan
    (answered only)."""
    held_out: float = Field(0.02, ge=0, lt=1)
    """Share of the problems that is never trained on and measured instead; `eval_split` does not apply to collections."""

    @model_validator(mode="after")
    def _ranks_right_ones(self) -> Self:
        if self.reconstruction is not None and self.keep != "answered":
            raise ValueError("reconstruction chooses among traces with the right answer; set keep: answered, or remove reconstruction")
        return self


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


class FreshConfig(Config):
    """A new model with random weights."""

    architecture: Literal["qwen3", "mistral"] = "qwen3"
    """Model class of transformers; both load with head counts that do not divide the hidden size."""
    hidden_size: int = Field(128, gt=0)
    """Width of the residual stream."""
    intermediate_size: int = Field(384, gt=0)
    """Width of the feed-forward layers."""
    num_hidden_layers: int = Field(4, gt=0)
    """Number of layers."""
    num_attention_heads: int = Field(4, gt=0)
    """Query heads per layer."""
    num_key_value_heads: int = Field(4, gt=0)
    """Key and value heads per layer; must divide num_attention_heads."""
    head_dim: int = Field(32, gt=0)
    """Width of one head."""
    max_position_embeddings: int = Field(1024, gt=0)
    """Longest sequence in tokens that the model accepts."""
    rope_theta: float = Field(10_000.0, gt=0)
    """Base of the rotary position embedding."""
    tie_word_embeddings: bool = True
    """Share the input and output embedding."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("num_key_value_heads must divide num_attention_heads")
        return self


class InitConfig(Config):
    """Where training starts: an existing checkpoint (`model`) or random weights (`fresh` and a tokenizer)."""

    model: ModelConfig | None = None
    """Checkpoint to start from: hf:PATH_OR_HUB_ID or reference:NAME."""
    fresh: FreshConfig | None = None
    """Shape of a new model."""
    tokenizer: str | None = None
    """Folder or Hub id of the tokenizer of a new model; null: the shipped one of the reference models."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.model is None) == (self.fresh is None):
            raise ValueError("start from exactly one of model (a checkpoint) and fresh (a new model)")
        if self.model is not None and self.model.backend not in ("hf", "reference"):
            raise ValueError(f"only local weights can be trained, not {self.model.short}; write hf:PATH or reference:NAME")
        if self.model is not None and self.tokenizer is not None:
            raise ValueError("a checkpoint brings its own tokenizer; remove init.tokenizer")
        return self


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


class LoraConfig(Config):
    """Train low-rank adapters instead of all weights (PEFT). They are merged into the exported checkpoint."""

    r: int = Field(8, gt=0)
    """Rank."""
    lora_alpha: float = Field(16.0, gt=0)
    """Scale of the adapter's output is lora_alpha / r."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Modules that get an adapter."""


class TrainConfig(Config):
    """Optimisation. One optimiser step takes per_device_train_batch_tokens × gradient_accumulation_steps × num_workers tokens."""

    max_tokens: int | None = Field(1_000_000, gt=0)
    """Training tokens in all, without padding; null: max_steps decides."""
    max_steps: int | None = Field(None, gt=0)
    """Optimiser steps; overrides max_tokens."""
    max_length: int = Field(512, gt=0)
    """Longest example, and longest packed row, in tokens; longer examples are dropped and counted."""
    per_device_train_batch_tokens: int = Field(2048, gt=0)
    """Tokens, without padding, in one forward pass of one worker."""
    gradient_accumulation_steps: int = Field(4, gt=0)
    """Forward passes per optimiser step; they share the step's examples sorted by length, so more of them mean less padding."""
    packing: bool = False
    """Put several examples into one row; off: rows padded to the longest of their batch, which is faster on a CPU."""
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention kernel of transformers."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    lr_scheduler_type: Literal["cosine", "cosine_with_min_lr", "linear", "constant_with_warmup", "warmup_stable_decay"] = "cosine"
    """Shape of the learning rate."""
    lr_scheduler_kwargs: dict[str, Any] = Field(default_factory=dict)
    """More arguments of the schedule, such as num_decay_steps or min_lr_rate."""
    warmup_ratio: float = Field(0.02, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    optim: str = "adamw_torch_fused"
    """Optimiser by its transformers name."""
    adam_beta2: float = Field(0.98, gt=0, lt=1)
    """Decay of AdamW's second moment."""
    weight_decay: float = Field(0.05, ge=0)
    """Decoupled weight decay, not on norms and biases."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients are scaled down to this norm; 0: never."""
    bf16: bool = False
    """bfloat16 autocast; on a CPU worth it only with AMX or AVX512-BF16 instructions."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    fsdp: bool = False
    """Shard weights, gradients and optimiser over the workers' GPUs (backend: ray with GPUs only)."""
    fsdp_config: dict[str, Any] = Field(default_factory=dict)
    """Options of transformers for FSDP, such as reshard_after_forward, cpu_offload, activation_checkpointing."""
    torch_compile: bool = False
    """Compile the layers: some tens of seconds at the start, then faster on a CPU with a C++ compiler; worth it for long runs."""
    logging_steps: int = Field(20, gt=0)
    """Steps between two lines of metrics.jsonl."""
    save_steps: int = Field(200, gt=0)
    """Steps between two checkpoints to resume from."""
    save_total_limit: int = Field(2, ge=2)
    """Checkpoints kept; two, so that one is whole when a kill hits the other."""
    report_to: tuple[str, ...] = ("tensorboard",)
    """Trackers by their transformers names: tensorboard, or one whose package you install, such as wandb or mlflow; empty: none."""

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if self.max_tokens is None and self.max_steps is None:
            raise ValueError("training needs an end; give max_tokens or max_steps")
        if self.fsdp_config and not self.fsdp:
            raise ValueError("fsdp_config has no effect without fsdp: true")
        if any(name.endswith("state_dict_type") and value != "FULL_STATE_DICT" for name, value in self.fsdp_config.items()):
            raise ValueError("the best weights are kept whole, as other programs load them; remove state_dict_type from fsdp_config")
        return self

    def steps(self, workers: int) -> int:
        """Optimiser steps in all, `workers` being those of a full group."""
        if self.max_steps is not None:
            return self.max_steps
        assert self.max_tokens is not None
        return max(1, round(self.max_tokens / (self.per_device_train_batch_tokens * self.gradient_accumulation_steps * workers)))


class TrainEvalConfig(Config):
    """What is measured during training, on problems that are never trained on."""

    eval_steps: int = Field(500, gt=0)
    """Steps between two evaluations; there is always one at the end."""
    examples: int = Field(256, ge=0)
    """Held-out examples of the loss, in all; 0: no evaluation."""
    generate: int = Field(64, ge=0)
    """How many of them are also answered greedily, for the exact match with the gold reply."""
    max_new_tokens: int = Field(256, gt=0)
    """Most tokens per generated reply."""
    metric_for_best_model: Literal["loss", "exact_match"] = "loss"
    """The checkpoint that is best by this metric is the one exported."""


class DistillConfig(Config):
    """Train one role. Run again with the same config to resume."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run; its folder is storage_path/name."""
    role: TrainedRole
    """What the model will be: decomposer, solver, or general (all formats; a base to start from)."""
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
    """Training in order, such as short problems first."""
    init: InitConfig
    """Where training starts."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """What is minimised."""
    train: TrainConfig = TrainConfig()
    """Optimisation."""
    evaluation: TrainEvalConfig = TrainEvalConfig()
    """Measurements during training."""
    lora: LoraConfig | None = None
    """Low-rank adapters; null: all weights are trained."""
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
    def _workers_fit(self) -> Self:
        if not 1 <= self.min_workers <= self.max_workers:
            raise ValueError("num_workers is a number from 1 on, or [fewest, most]")
        if self.backend == "inline" and self.num_workers != 1:
            raise ValueError("the inline backend has one worker; set backend: ray or num_workers: 1")
        if self.train.fsdp and (self.backend == "inline" or not self.resources_per_worker.get("GPU")):
            raise ValueError("fsdp shards over the GPUs of workers; set backend: ray and resources_per_worker: {GPU: 1}, or fsdp: false")
        return self

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
