"""Several students in one job: each a run of `cleave distill`, one after another, or on Ray Train as many at a time as fit the cluster.

    python -m cleave distill configs/examples/gsm8k-students.yaml students.solver.train.learning_rate=1e-4

All of them are checked before the first one starts. One that fails does not stop those beside it; the job then ends with its error, and
the same command goes on with what is left. Left out: the training of one student (distill.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from cleave.config.distill import DistillConfig
from cleave.config.students import StudentsConfig
from cleave.console import say
from cleave.errors import CleaveError
from cleave.runs import RunFolder
from pipelines import distill


def main(config: StudentsConfig, *, dry_run: bool = False, as_json: bool = False) -> int:
    """Train all students, or go on; returns the exit code. Raises CleaveError for what the user has to put right."""
    students = [config.student(name) for name in config.students]
    for student in students:
        if not is_finished(student):
            say(f"{config.name}: {distill.check(student)}")
    if dry_run:
        say("nothing was started.")
        return distill.show_config(config, as_json=as_json)
    return train(students, config.max_concurrent) or show(students, as_json=as_json)


def train(students: Iterable[DistillConfig], most: int | None = None) -> int:
    """Train all, or go on: those on Ray Train at the same time, `most` at once, after the inline ones; returns the exit code."""
    inline: list[DistillConfig] = []
    on_ray: list[DistillConfig] = []
    for student in students:
        (inline if student.backend == "inline" else on_ray).append(student)
    return one_after_another(inline) or (at_the_same_time(on_ray, most) if on_ray else 0)


def one_after_another(students: Iterable[DistillConfig]) -> int:
    """In this process."""
    for student in students:
        say(f"distill {student.name}")
        if code := distill.main(student, quiet=True):
            return code
    return 0


def at_the_same_time(students: list[DistillConfig], most: int | None) -> int:
    """On Ray Train, each student's driver in a thread. Raises the first student's error once all others have ended."""
    from actors.connection import connected
    from pipelines.ray_train import check_fits

    with connected():
        for student in students:
            check_fits(student)
        pool = ThreadPoolExecutor(min(most or len(students), room(students)), thread_name_prefix="student")
        running = [pool.submit(distill.main, student, quiet=True) for student in students]
        try:
            codes = [ended(student, one) for student, one in zip(students, running, strict=True)]
        except KeyboardInterrupt:
            say("stopped; run the same command again to go on from the last checkpoints.")
            return 130
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return next((code for code in codes if code), 0) or raise_first(running)


def ended(student: DistillConfig, one: Future[int]) -> int:
    """Wait for a student. Its error is said now and raised at the end."""
    error = one.exception()
    if error is None:
        return one.result()
    say(f"{student.name}: {error}")
    return 0


def raise_first(futures: Iterable[Future[int]]) -> int:
    """Raise the first error there was: a bug before a typed error. Returns 0 without one."""
    errors = [error for error in (future.exception() for future in futures) if error is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, CleaveError)):
        raise error
    return 0


def room(students: Iterable[DistillConfig]) -> int:
    """How many students the cluster holds at the same time, each with all its workers; at least one."""
    from pipelines.ray_train import places

    return max(1, min(places(student.resources_per_worker) // student.max_workers for student in students))


def is_finished(student: DistillConfig) -> bool:
    """Whether it was trained before."""
    return RunFolder.open(student.storage_path, student.name).exists("result.json")


def show(students: Iterable[DistillConfig], *, as_json: bool) -> int:
    """The students' results on stdout."""
    folders = {student.name: RunFolder.open(student.storage_path, student.name) for student in students}
    results = {name: json.loads(folder.read_text("result.json")) for name, folder in folders.items()}
    if as_json:
        print(json.dumps(results))
        return 0
    for name, result in results.items():
        print(f"{name}: {result['tokens']:,} tokens, {result['checkpoint']}")
    return 0
