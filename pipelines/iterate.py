"""`cleave iterate CONFIG`: rounds in which a solver student learns from its own right solutions beside its teacher's (arXiv 2410.18574).

    python -m cleave iterate configs/iterate/solver.yaml

A round samples train problems under every strategy (round 0: the teacher, then the student of the round before), keeps what is right,
mixes it with the teacher's, trains, and measures the new student on a validation split. It is the last one when it gains less than
`min_gain`. Every part is a run in the round's folder by the programs that also stand alone, so a stopped iteration goes on where it was.
Left out: which traces are mixed (screened.py), what a strategy's traces become (cleave/config/iterate.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import yaml

from cleave.config.base import dump
from cleave.config.iterate import IterateConfig, label
from cleave.config.screening import CollectionConfig
from cleave.console import print_table, say
from cleave.errors import ConfigError, DataError
from cleave.intervals import Interval, wilson
from cleave.runs import CONFIG, METRICS, RunFolder
from cleave.tasks.registry import get_task
from pipelines import collect, distill, evaluate
from pipelines.formats import has_what_it_needs
from pipelines.screened import is_held_out, mixed

RESULT = "result.json"
FREE_TO_CHANGE = ("storage_path", "rounds", "min_gain")
"""Fields that change no round that is finished."""


@dataclass(frozen=True)
class Part:
    """What one task and strategy bring to a round's training, in problems: `right` of those sampled, `own` and `teacher` in the mixture.

    The sampler is the student of the round before; in round 0, and for `mixture: teacher`, the teacher.
    """

    task: str
    strategy: str
    right: int
    own: int
    teacher: int


@dataclass(frozen=True)
class Round:
    """A finished round: its student, what it learned from, and by strategy how many of the validation problems it was `asked` it solves."""

    number: int
    checkpoint: str
    parts: tuple[Part, ...]
    solved: dict[str, int]
    asked: dict[str, int]

    @property
    def alpha(self) -> float:
        """The teacher's share of the mixture: P_train = α P_teacher + (1 - α) P_student."""
        teacher = sum(part.teacher for part in self.parts)
        return teacher / (teacher + sum(part.own for part in self.parts))

    def accuracy(self, strategy: str) -> Interval:
        return wilson(self.solved[strategy], self.asked[strategy])

    def histogram(self, what: str) -> dict[str, float]:
        """Share of each strategy among the `right` samples or in the `mixture`."""
        counts = dict.fromkeys(self.solved, 0)
        for part in self.parts:
            counts[part.strategy] += part.right if what == "right" else part.own + part.teacher
        return {strategy: count / max(1, sum(counts.values())) for strategy, count in counts.items()}

    @classmethod
    def read(cls, folder: RunFolder) -> Self:
        """A finished round."""
        data = json.loads(folder.read_text(RESULT))
        return cls(**data | {"parts": tuple(Part(**part) for part in data["parts"])})


def main(config: IterateConfig, *, dry_run: bool = False, as_json: bool = False) -> int:
    """Run, or go on with, an iteration; returns the exit code. Raises CleaveError for what the user has to put right."""
    if dry_run:
        return check(config, as_json=as_json)
    folder = claim(config)
    rounds: list[Round] = []
    while not (why := end(config, rounds)):
        place = RunFolder.open(config.folder, f"round-{len(rounds)}")
        if not place.exists(RESULT) and (code := play(config, rounds, place)):
            return code
        rounds.append(Round.read(place))
        say(f"round {len(rounds) - 1}: {config.judge} {rounds[-1].accuracy(config.judge)}")
    publish(config, folder, rounds, why, as_json=as_json)
    return 0


def play(config: IterateConfig, before: Sequence[Round], place: RunFolder) -> int:
    """The next round: sample, mix, train, measure. Returns the exit code of what was stopped, 0 when the round is finished."""
    number = len(before)
    sampler, start = students(config, before)
    if code := sample(config, number, sampler):
        return code
    parts = mixture(config, number)
    training = config.training(number, {(part.task, part.strategy): part.own + part.teacher for part in parts}, start)
    say(f"round {number}: train")
    if code := distill.main(training, quiet=True):
        return code
    checkpoint = str(json.loads(RunFolder.open(training.storage_path, training.name).read_text(RESULT))["checkpoint"])
    say(f"round {number}: measure")
    if code := evaluate.main(config.evaluation(number, checkpoint), quiet=True):
        return code
    finished = Round(number, checkpoint, tuple(parts), *figures(RunFolder.open(config.place(number), "evaluation")))
    place.write_text(RESULT, json.dumps(asdict(finished), indent=2) + "\n")
    return 0


def students(config: IterateConfig, before: Sequence[Round]) -> tuple[str | None, str | None]:
    """Whose samples a round takes, and from where it trains: checkpoints, None for the teacher and for `distill.init`."""
    if not before:
        return None, None
    return before[-1].checkpoint, before[-1 if config.start_from == "previous" else 0].checkpoint


def sample(config: IterateConfig, number: int, sampler: str | None) -> int:
    """The traces of a round, by strategy. The control needs those of the teacher only."""
    if sampler is not None and config.mixture == "teacher":
        return 0
    for strategy in config.strategies:
        say(f"round {number}: sample {strategy}")
        if code := collect.main(config.collection(number, strategy, sampler), quiet=True):
            return code
    return 0


def mixture(config: IterateConfig, number: int) -> list[Part]:
    """What the round's training takes of each task and strategy. Raises DataError where there is nothing at all."""
    parts = []
    for task in config.tasks():
        for strategy in config.strategies:
            sources = CollectionConfig.model_validate(config.sources(number, strategy))
            form = config.learned(strategy)
            kept = mixed(sources, label(task.title, strategy), get_task(task.task), [form])
            usable = [sum(has_what_it_needs(each, form) and not is_held_out(each, sources) for each in part) for part in kept.values()]
            own = usable[0] if sources.also else 0
            parts.append(Part(task.title, strategy, len(kept[sources.path]), own, sum(usable) - own))
    if not any(part.own + part.teacher for part in parts):
        raise DataError(f"no trace under {config.folder} is right, so there is nothing to learn; ask a better teacher, or sample more.")
    for part in parts:
        if not part.own + part.teacher:
            say(f"nothing of {part.task} is learned by the strategy {part.strategy}: no trace of it is right.")
    return parts


def figures(evaluation: RunFolder) -> tuple[dict[str, int], dict[str, int]]:
    """Problems solved and problems asked, by strategy."""
    rows = [json.loads(line) for line in evaluation.read_text(METRICS).splitlines()]
    overall = [row for row in rows if row["kind"] == "accuracy" and row["by"] == "overall"]
    return {row["variant"]: row["right"] for row in overall}, {row["variant"]: row["n"] for row in overall}


def end(config: IterateConfig, rounds: Sequence[Round]) -> str:
    """Why there is no further round; '' while there is one."""
    if not rounds:
        return ""
    now = rounds[-1].accuracy(config.judge).value
    gain = now - rounds[-2].accuracy(config.judge).value if len(rounds) > 1 else None
    if gain is not None and gain < config.min_gain:
        change = f"gained {100 * gain:.1f}" if gain >= 0 else f"lost {-100 * gain:.1f}"
        return f"round {rounds[-1].number} {change} points, less than min_gain={config.min_gain:g}"
    return f"rounds={config.rounds}" if rounds[-1].number == config.rounds else ""


def best(config: IterateConfig, rounds: Sequence[Round]) -> Round:
    """The round of the most accurate student; the earliest of equals."""
    return max(rounds, key=lambda one: (one.accuracy(config.judge).value, -one.number))


def claim(config: IterateConfig) -> RunFolder:
    """The iteration's folder with config.yaml in it. Raises ConfigError if it was begun with another config."""
    folder = RunFolder.open(config.storage_path, config.name)
    folder.prepare()
    if folder.exists(CONFIG):
        before, now = yaml.safe_load(folder.read_text(CONFIG)), yaml.safe_load(dump(config))
        changed = [key for key in now if key not in FREE_TO_CHANGE and before.get(key) != now[key]]
        if changed:
            raise ConfigError(f"{folder.location} was begun with another {changed[0]}; choose another name=…, or delete the folder.")
    folder.write_text(CONFIG, dump(config))
    return folder


def publish(config: IterateConfig, folder: RunFolder, rounds: Sequence[Round], why: str, *, as_json: bool) -> None:
    """Write metrics.jsonl and result.json, and show the rounds."""
    rows = [as_figures(config, one) for one in rounds]
    winner = best(config, rounds)
    result = {"best_round": winner.number, "checkpoint": winner.checkpoint, "ended": why}
    folder.write_lines(METRICS, rows)
    folder.write_text(RESULT, json.dumps(result, indent=2) + "\n")
    if as_json:
        print(json.dumps({"run": folder.location, **result, "rounds": rows}))
        return
    columns = ["round", "n", *config.strategies, "α", "right samples", "mixture"]
    title = f"Solved, %; the teacher's share of the training; strategies among right samples and in the training, % ({config.mixture})"
    print_table(columns, lines(config, rounds), title=title, numbers=columns[:-2])
    say(f"ended: {why}; the best by {config.judge} is round {winner.number}, {winner.checkpoint}")


def lines(config: IterateConfig, rounds: Sequence[Round]) -> Iterator[list[str]]:
    """The printed table."""
    for one in rounds:
        accuracies = [str(one.accuracy(strategy)) for strategy in config.strategies]
        shares = [", ".join(f"{name} {100 * share:.0f}" for name, share in one.histogram(what).items()) for what in ("right", "mixture")]
        yield [str(one.number), str(one.asked[config.judge]), *accuracies, f"{one.alpha:.2f}", *shares]


def as_figures(config: IterateConfig, one: Round) -> dict[str, Any]:
    """A round as plain JSON."""
    return {
        "kind": "round",
        **asdict(one),
        "accuracy": {strategy: vars(one.accuracy(strategy)) for strategy in config.strategies},
        "alpha": one.alpha,
        "right": one.histogram("right"),
        "mixture": one.histogram("mixture"),
    }


def check(config: IterateConfig, *, as_json: bool) -> int:
    """What an iteration would do at most, for --dry-run."""
    trainings = config.rounds + 1
    samplings = len(config.strategies) * (1 if config.mixture == "teacher" else trainings)
    shares = {(task.title, strategy): 1 for task in config.tasks() for strategy in config.strategies}
    tokens = trainings * (config.training(0, shares).train.max_tokens or 0)
    plan = {"run": config.folder, "samplings": samplings, "trainings": trainings, "training_tokens": tokens}
    if as_json:
        print(json.dumps(plan | {"config": config.model_dump(mode="json")}))
    else:
        print(dump(config), end="")
        say(f"would sample {samplings} times and train {trainings} times on {tokens:,} tokens in all at most, into {config.folder}")
    return 0
