"""The command line: `python -m cleave COMMAND` or `cleave COMMAND`; `--help` lists the commands.

Every command is a thin function in cleave/commands/: it parses, then imports and calls what does the work. Those files are the only
ones that may reach upward (pipelines, serve, cluster), and only inside functions, so that `--help` and mistakes in a config are
answered at once.
Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 a mistake that the user can correct,
130 interrupted. Left out: any work.
"""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from cleave.commands import answers, curriculum, doctor, drafts, jobs, render, serving, tasks, training, tune
from cleave.commands.arguments import check_arguments
from cleave.console import say, say_error
from cleave.errors import CleaveError


class Interrupted(Exception):
    """Ctrl-C reached the command line; typer by itself would end without a word."""


class Commands(TyperGroup):
    """The root of the commands."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted from error


app = typer.Typer(
    cls=Commands,
    name="cleave",
    help="Split a problem, solve the parts, verify; evaluate, distil and serve the three roles on Ray.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
answers.add_to(app)
training.add_to(app)
serving.add_to(app)
jobs.add_to(app)
doctor.add_to(app)
render.add_to(app)
drafts.add_to(app)
app.add_typer(tasks.tasks_app, name="tasks")
app.add_typer(curriculum.curriculum_app, name="curriculum")
app.add_typer(tune.tune_app, name="tune")
app.add_typer(jobs.jobs_app, name="jobs")

HOW_TO_RESUME = {
    "evaluate": "run the same command again to go on from here",
    "replay": "run the same command again to go on from here",
    "collect": "run the same command again to go on from here",
    "distill": "run the same command again to go on from the last checkpoint",
    "study": "run the same command again to go on from here",
    "iterate": "run the same command again to go on from here",
    "tune": "run the same command again to go on from here",
    "submit": "the job goes on; `cleave jobs list` shows it",
}


@app.callback()
def _root() -> None:
    """Nothing is common to all commands; the callback keeps single commands from taking over the root."""


def usage_sentence(error: typer.TyperException) -> str:
    """What is wrong with the command line, and which --help tells more."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "cleave"
    return f"{error.format_message().rstrip('.')}; see `{command} --help`."


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code. Errors of the user's making are one sentence; anything else keeps its traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        check_arguments(arguments)
        code = app(args=arguments or ["--help"], prog_name="cleave", standalone_mode=False)
    except CleaveError as error:
        say_error(str(error))
        return error.exit_code
    except typer.TyperException as error:
        say_error(usage_sentence(error))
        return error.exit_code
    except (Interrupted, KeyboardInterrupt, typer.Abort):
        command = next((word for word in arguments if not word.startswith("-")), "")
        say(f"interrupted; {HOW_TO_RESUME.get(command, 'nothing was changed')}.")
        return 130
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
