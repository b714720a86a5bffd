"""`cleave study CONFIG` where the config has `samples`: which verifier chooses best among the same samples, under which rule.

    python -m cleave study configs/studies/which_verifier.yaml

Collect what students learn from, train them, draw the samples once, have every verifier judge them, print the table. Every part is a run in
the study's folder by the programs that also stand alone, so a stopped study goes on where it was.
Left out: the figures (cleave/verifier_table.py, pair_table.py), the page (cleave/verifier_report.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from cleave.config.base import dump
from cleave.config.evaluate import EvaluateConfig
from cleave.config.reasoning import RULES, UNSCORED, SelectionName
from cleave.config.verifier_study import VerifierStudyConfig
from cleave.console import print_table, say
from cleave.pair_table import PairRow, PairTable
from cleave.report import Scorers
from cleave.runs import CONFIG, METRICS, REPORT, RunFolder
from cleave.selection import Options
from cleave.selection_table import MAJ_K_AT_N, PASS_AT_N
from cleave.verifier_figures import NOBODY
from cleave.verifier_report import render
from cleave.verifier_table import ArmRow, Judgements, arm_row, as_figures
from pipelines import collect, evaluate
from pipelines.evaluation_summary import points
from pipelines.study import as_figures as as_pair_figures
from pipelines.study import checkpoints, train


def main(config: VerifierStudyConfig, *, dry_run: bool = False, as_json: bool = False) -> int:
    """Run, or go on with, a study; returns the exit code. Raises CleaveError for what the user has to put right."""
    if dry_run:
        return check(config, as_json=as_json)
    folder = RunFolder.open(config.storage_path, config.name)
    folder.prepare()
    folder.write_text(CONFIG, dump(config))
    code = gather(config) or train(config) or sample(config) or judge(config)
    if code:
        return code
    publish(config, folder, as_json=as_json)
    return 0


def gather(config: VerifierStudyConfig) -> int:
    """The samples that students learn from."""
    if not config.students:
        return 0
    say("study: collect")
    return collect.main(config.collection(), quiet=True)


def sample(config: VerifierStudyConfig) -> int:
    """The samples that are judged."""
    say("study: draw the samples")
    return evaluate.main(config.sampled(), quiet=True)


def judge(config: VerifierStudyConfig) -> int:
    """Every verifier, with every seed if it is a student, on the same samples."""
    for arm, seed, run in runs(config):
        say(f"study: judge by {arm}, seed {seed}")
        if code := evaluate.main(run, quiet=True):
            return code
    return 0


def runs(config: VerifierStudyConfig) -> Iterator[tuple[str, int, EvaluateConfig]]:
    """How each verifier judges, by seed."""
    for arm in config.arms:
        for seed in config.arm_seeds(arm):
            trained = checkpoints(config, seed) if arm in config.students else {}
            yield arm, seed, config.judged(arm, seed, trained.get(arm))


def read(config: VerifierStudyConfig) -> dict[str, list[Judgements]]:
    """What each verifier said, by seed."""
    scorers, reasoning = Scorers(config.sampled()), config.sampled().reasoning
    options = Options(reasoning.rerank_top_k, reasoning.majority_top_n)

    found: dict[str, list[Judgements]] = {}
    for arm, _, run in runs(config):
        folder = RunFolder.open(run.storage_path, run.name)
        found.setdefault(arm, []).append(Judgements.read(folder, scorers, _rules(config), options))
    return found


def table_of(config: VerifierStudyConfig, found: dict[str, list[Judgements]]) -> PairTable:
    """What every rule solves: those that need no verifier once, the others with each."""
    table = PairTable(config.confidence)
    alone = next(iter(found.values()))[0]
    asked = ("decomposer", "solver")
    for rule in (*(rule for rule in _rules(config) if rule in UNSCORED), MAJ_K_AT_N, PASS_AT_N):
        table.add(rule, {"verifier": NOBODY, "selection": rule}, [alone.measured(rule, asked)], config.baseline)
    for arm, judged in found.items():
        for rule in (rule for rule in _rules(config) if rule not in UNSCORED):
            table.add(f"{arm}: {rule}", {"verifier": arm, "selection": rule}, [each.measured(rule) for each in judged], config.baseline)
    return table


def publish(config: VerifierStudyConfig, folder: RunFolder, *, as_json: bool) -> None:
    """Write metrics.jsonl and report.html, and show both tables under one sentence."""
    found = read(config)
    arms = [arm_row(arm, judged) for arm, judged in found.items()]
    rows = list(table_of(config, found).rows())
    sentence = conclusion(rows, config.baseline, config.confidence)
    figures = [as_figures(arm) for arm in arms] + [as_pair_figures(row, None) for row in rows]
    folder.write_lines(METRICS, figures)
    folder.write_text(REPORT, render(config, folder, rows, arms, sentence))
    if as_json:
        print(json.dumps({"run": folder.location, "conclusion": sentence, "figures": figures}))
        return
    print(sentence + "\n")
    tasks = sorted({task for row in rows for task in row.by_task})
    columns = ["rule", "n", "seeds", "all", *tasks, f"points above {config.baseline}", "p"]
    print_table(columns, lines(rows, tasks), title="Solved, %", numbers=columns[1:])
    columns = ["verifier", "seeds", "solutions", "AUC", "ECE", "Brier", "ECE of the answer", "tokens / problem", "MFLOP / problem"]
    print_table(columns, arm_lines(arms), title="What the verifiers know", numbers=columns[1:])
    say(f"results are in {folder.location}/{REPORT}")


def conclusion(rows: Iterable[PairRow], baseline: str, confidence: float = 0.95) -> str:
    """One sentence: the verifier and rule with the largest gain, of those that have as many seeds as any and are above the baseline beyond
    doubt, p being corrected for their number (Bonferroni); or that there is none."""
    scored = [(row, row.difference) for row in rows if row.players["verifier"] != NOBODY and row.difference is not None]
    seeds = max(row.seeds for row, _ in scored)
    compared = [(row, found) for row, found in scored if row.seeds == seeds]
    sure = [(row, found) for row, found in compared if found.interval.low > 0 and found.p * len(compared) <= 1 - confidence]
    if not sure:
        return f"No verifier is above {baseline} beyond doubt ({len(compared)} compared): stay with it, or train on more samples."
    best, found = max(sure, key=lambda each: each[1].interval.value)
    return f"Choose by {best.name}: {points(found.interval)} points above {baseline}, the most of {len(compared)} compared here."


def lines(rows: Iterable[PairRow], tasks: list[str]) -> Iterator[list[str]]:
    """The printed table of rules."""
    for row in rows:
        accuracies = [str(row.by_task[task]) if task in row.by_task else "-" for task in tasks]
        found = row.difference
        compared = ["-", "-"] if found is None else [points(found.interval), f"{found.p:.3f}"]
        yield [row.name, str(row.n), str(row.seeds), str(row.accuracy), *accuracies, *compared]


def arm_lines(arms: Iterable[ArmRow]) -> Iterator[list[str]]:
    """The printed table of verifiers."""
    for arm in arms:
        known = [f"{value:.3f}" for value in (arm.auc, arm.ece, arm.brier, arm.ece_answer)]
        yield [arm.name, str(arm.seeds), f"{arm.solutions:,}", *known, f"{arm.tokens:.0f}", f"{arm.flops / 1e6:.1f}"]


def check(config: VerifierStudyConfig, *, as_json: bool) -> int:
    """What a study would do, for --dry-run."""
    trained = [config.student(name, seed) for name in config.students for seed in config.seeds_of(name)]
    tokens = sum(student.train.max_tokens or 0 for student in trained)
    judged = sum(len(config.arm_seeds(arm)) for arm in config.arms)
    plan = {"run": config.folder, "trainings": len(trained), "training_tokens": tokens, "verifiers": config.arms, "judgings": judged}
    if as_json:
        print(json.dumps(plan | {"config": config.model_dump(mode="json")}))
    else:
        print(dump(config), end="")
        say(
            f"would train {len(trained)} times on {tokens:,} tokens in all, draw the samples once, and have {len(config.arms)} verifiers "
            f"judge them {judged} times into {config.folder}"
        )
    return 0


def _rules(config: VerifierStudyConfig) -> list[SelectionName]:
    """Those that are compared, and the one that they are compared with."""
    return [rule for rule in RULES if rule in config.rules or rule == config.baseline]
