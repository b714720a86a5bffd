"""What the command line shows to people: one-line errors, tables, trees and progress. Results go to stdout, everything else to stderr.

Progress is a bar on a terminal and one plain line every few seconds elsewhere, so that job logs stay short. Imports rich only
when something is drawn. Left out: what the tables hold (each command knows).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

LINE_EVERY_S = 5.0


def say(text: str) -> None:
    """Write one line for people to stderr."""
    print(text, file=sys.stderr, flush=True)


def say_error(message: str) -> None:
    """Write `error: …` as one line to stderr, whatever line breaks the message holds."""
    say(f"error: {' '.join(message.split())}")


def out() -> Console:
    """The console for results: stdout, without colours when it is not a terminal, and wide enough for tables in a log."""
    from rich.console import Console

    return Console(highlight=False, markup=False) if sys.stdout.isatty() else Console(width=140, highlight=False, markup=False)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None, numbers: Sequence[str] = ()) -> None:
    """Print a table to stdout. Columns named in `numbers` are set to the right. Cells are plain text: model output cannot style them."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    out().print(table)


class Progress(Protocol):
    """A running count. `advance` may be called as often as work is done."""

    def advance(self, steps: int = 1, note: str = "") -> None: ...


class Lines:
    """Progress as plain lines, at most one every `every_s` seconds, plus a last one from `close`."""

    def __init__(self, what: str, total: int | None, every_s: float = LINE_EVERY_S) -> None:
        self.what, self.total, self.every_s = what, total, every_s
        self.done, self.note = 0, ""
        self._start = self._said = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done, self.note = self.done + steps, note or self.note
        if time.monotonic() - self._said >= self.every_s:
            self._say()

    def close(self) -> None:
        self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        of = f"/{self.total}" if self.total is not None else ""
        note = f"  {self.note}" if self.note else ""
        say(f"{self.what}: {self.done}{of}  {self._said - self._start:.0f} s{note}")


class Bar:
    """Progress as a rich bar on the terminal of stderr."""

    def __init__(self, what: str, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._progress = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(what, total=total, note="")
        self._progress.start()

    def advance(self, steps: int = 1, note: str = "") -> None:
        if note:
            self._progress.update(self._task, note=note)
        self._progress.advance(self._task, steps)

    def close(self) -> None:
        self._progress.stop()


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Progress]:
    """Show progress on stderr while the body runs: `with progress("evaluate", 500) as p: p.advance()`."""
    shown = Bar(what, total) if sys.stderr.isatty() else Lines(what, total)
    try:
        yield shown
    finally:
        shown.close()
