"""`report.html` of a study of verifiers: the conclusion, differences, every rule and every verifier, in one file without links."""

from __future__ import annotations

from collections.abc import Sequence

from cleave.config.verifier_study import VerifierStudyConfig
from cleave.page import page
from cleave.pair_table import PairRow
from cleave.runs import CONFIG, RunFolder
from cleave.verifier_table import ArmRow

TEMPLATE = "verifier_report.html.j2"


def render(config: VerifierStudyConfig, folder: RunFolder, rows: Sequence[PairRow], arms: Sequence[ArmRow], conclusion: str) -> str:
    """The page."""
    from cleave import verifier_figures

    return page(
        TEMPLATE,
        config=config,
        samples=config.sampled().reasoning.n,
        rows=rows,
        arms=arms,
        conclusion=conclusion,
        tasks=sorted({task for row in rows for task in row.by_task}),
        gains=verifier_figures.gains(rows, config.baseline),
        config_text=folder.read_text(CONFIG),
    )
