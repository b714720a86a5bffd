"""Live metrics of Ray Train: rows in order whatever restarts, TensorBoard's events, lines for the person who waits."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cleave.runs import RunFolder
from pipelines.live_metrics import ROW, LiveMetrics, following, read_rows


def training_row(step: int, loss: float = 1.0) -> dict[str, float]:
    return {"step": step, "time": 100.0 + step, "loss": loss, "tokens": 10 * step, "tokens_per_second": 5.0}


def evaluation_row(step: int) -> dict[str, float]:
    return {"step": step, "time": 100.5 + step, "eval_loss": 0.5}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    opened = RunFolder.open(str(tmp_path), "run")
    opened.prepare()
    return opened


def live(folder: RunFolder, *, tensorboard: bool = False) -> LiveMetrics:
    path = Path(folder.root)
    return LiveMetrics(str(path.parent), path.name, tensorboard=tensorboard, every_s=0.0)


def test_rows_of_rank_0_are_written_and_reports_of_checkpoints_are_not(folder: RunFolder) -> None:
    writer = live(folder)
    writer.after_report(None, [{ROW: training_row(1)}, {ROW: training_row(1, loss=9.0)}], None)
    writer.after_report(None, [{"step": 1}, {}], object())
    assert read_rows(folder) == [training_row(1)]


def test_steps_done_again_replace_the_old_ones(folder: RunFolder) -> None:
    writer = live(folder)
    for row in (training_row(1), training_row(2), evaluation_row(2), training_row(3), training_row(2, loss=0.9)):
        writer.add(row)
    assert read_rows(folder) == [training_row(1), training_row(2, loss=0.9)]


def test_a_new_controller_keeps_what_an_earlier_one_wrote_of_earlier_steps(folder: RunFolder) -> None:
    for row in (training_row(1), training_row(2), evaluation_row(2), training_row(3)):
        live(folder).add(row)
    live(folder).add(training_row(3, loss=0.7))
    assert read_rows(folder) == [training_row(1), training_row(2), evaluation_row(2), training_row(3, loss=0.7)]


def test_tensorboard_shows_each_step_once_after_a_restart(folder: RunFolder) -> None:
    writer = live(folder, tensorboard=True)
    for row in (training_row(1), training_row(2), training_row(3), training_row(2, loss=0.9), evaluation_row(2)):
        writer.add(row)
    events = EventAccumulator(folder.path("tensorboard"))
    events.Reload()
    assert [(event.step, pytest.approx(event.value)) for event in events.Scalars("train/loss")] == [(1, 1.0), (2, 0.9)]
    assert [event.step for event in events.Scalars("eval/loss")] == [2]


def test_the_driver_says_the_newest_row_and_every_evaluation(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    old = training_row(1) | {"time": time.time() - 60}
    folder.write_lines("metrics.jsonl", [old])
    with following(folder, steps=10, every_s=0.05):
        time.sleep(0.15)
        now = time.time() + 1
        fresh = [training_row(step) | {"time": now + step} for step in (2, 3, 4)]
        folder.write_lines("metrics.jsonl", [old, fresh[0], evaluation_row(2) | {"time": now + 2.5}, *fresh[1:]])
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("step 2 held out: loss 0.5")
    assert lines[1].startswith("step 4/10  loss 1.0000")


def test_a_folder_without_metrics_has_no_rows(folder: RunFolder) -> None:
    assert read_rows(folder) == []
    folder.write_text("metrics.jsonl", json.dumps(training_row(1)) + "\n")
    assert read_rows(folder) == [training_row(1)]
