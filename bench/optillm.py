"""Self-consistency by OptiLLM in front of our solver, in front of `transformers serve`, and our own: part `optillm` of bench/serve.py.

All draw five solutions (OptiLLM's number) at temperature 1 from the same solver, for the same problems and as many clients. OptiLLM
runs in an environment of its own, made from PyPI on demand: with the packages that its proxy imports, without those of its plugins
(torch, spaCy, Gradio …), which it then skips; nothing of it asks a model hub. Two things are done in its favour: it puts "User: " before
a question, which small models have never seen, so that is taken off again; and transformers gets a chat template that writes the
solver's own prompt.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bench.application import application
from bench.evaluate import make_problems
from bench.load import Outcome, answered, closed, statuses
from cleave.console import say
from cleave.errors import ConfigError
from cleave.tasks.reference.task import reference_task
from cleave.tasks.scoring import final_answer
from cleave.types import Problem

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / "build/venvs/optillm"
OPTILLM = "optillm==0.4.0"
ITS_PROXY_NEEDS = (
    "aiohttp cerebras_cloud_sdk flask httpx math-verify[antlr4_13_2] networkx numpy openai PyYAML requests sympy z3-solver<=4.15.4.0"
).split()
LAUNCH = """
import optillm, optillm.server as server
parse = server.parse_conversation
def as_it_was(messages):
    system, query, approach = parse(messages)
    return system, query.removeprefix("User: "), approach
server.parse_conversation = as_it_was
optillm.main()
"""
TEMPLATE = "Question: {{ messages[-1]['content'] }}\nSolution:{{ '\\n' }}"  # Jinja drops a bare newline at the end
SAMPLES, MAX_TOKENS, CLIENTS = 5, 256, 8
START_S = 180.0
CAST = {role: {"model": f"reference:{role}", "prompts": "reference-v1"} for role in ("decomposer", "solver")}
OURS = {"strategy": "single", "samples": SAMPLES, "selection": "majority"}


def against_optillm(folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Questions per second and accuracy of each, in turn. Raises ConfigError where OptiLLM cannot be installed."""
    python, problems, model = environment(), make_problems(count), chat_checkpoint(folder)
    with (
        application({"roles": CAST}) as served,
        transformers_serve(model) as theirs,
        optillm(python, f"{served.url}/v1") as before_ours,
        optillm(python, f"{theirs}/v1") as before_theirs,
    ):
        ways: dict[str, tuple[str, dict[str, Any]]] = {
            "cleave": (served.url, {"model": "cleave", "temperature": 1, **OURS}),
            "OptiLLM before cleave's solver": (before_ours, {"model": "self_consistency-solver"}),
            "OptiLLM before transformers serve": (before_theirs, {"model": f"self_consistency-{model}"}),
        }
        found: dict[str, list[tuple[float, list[Outcome]]]] = {name: [] for name in ways}
        for name, (url, fields) in ways.items():
            first = closed(f"{url}/v1/chat/completions", bodies_of(problems[:CLIENTS], fields), CLIENTS)
            if not answered(first):
                raise RuntimeError(f"{name} answers nothing: {statuses(first)}")  # which would pass for great speed
        for number in range(rounds):
            for name, (url, fields) in ways.items():
                start = time.perf_counter()
                outcomes = closed(f"{url}/v1/chat/completions", bodies_of(problems, fields), CLIENTS)
                found[name].append((count / (time.perf_counter() - start), outcomes))
                say(f"round {number + 1} of {rounds}, {name}: {found[name][-1][0]:.2f} questions/s")
    rows = [row(name, runs, problems) for name, runs in found.items()]
    return {
        "title": f"{count} problems, {SAMPLES} samples, {CLIENTS} clients, medians of {rounds} rounds",
        "rows": rows,
        "cleave_over_optillm": rows[0]["questions_per_s"] / rows[1]["questions_per_s"],
        "target": "at least equal questions per second and accuracy",
    }


def row(name: str, runs: Sequence[tuple[float, list[Outcome]]], problems: Sequence[Problem]) -> dict[str, Any]:
    rights = [sum(right(outcome, problem) for outcome, problem in zip(outcomes, problems, strict=True)) for _, outcomes in runs]
    return {
        "name": name,
        "questions_per_s": statistics.median(rate for rate, _ in runs),
        "accuracy": statistics.mean(rights) / len(problems),
        "errors": sum(len(outcomes) - len(answered(outcomes)) for _, outcomes in runs),
        "statuses": statuses([outcome for _, outcomes in runs for outcome in outcomes]),
    }


def right(outcome: Outcome, problem: Problem) -> bool:
    """By the strict final-answer rule, on the text that the client got."""
    answer = final_answer(outcome.said[0]) if outcome.said is not None and outcome.said[0] else None
    return reference_task(problem.task).score(problem, answer)


def bodies_of(problems: Sequence[Problem], fields: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**fields, "max_tokens": MAX_TOKENS, "messages": [{"role": "user", "content": problem.text}]} for problem in problems]


# --- what runs beside us ---


def environment() -> Path:
    """Python of OptiLLM's environment, which is made if it is not there. Raises ConfigError with what pip said."""
    python = ENVIRONMENT / "bin/python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps = [[sys.executable, "-m", "venv", ENVIRONMENT], [*pip, *ITS_PROXY_NEEDS], [*pip, "--no-deps", OPTILLM]]
    done = ENVIRONMENT / ".installed"
    if not done.exists():
        say(f"installing {OPTILLM} into {ENVIRONMENT} (minutes)")
        for step in steps:
            made = subprocess.run(step, capture_output=True, text=True)
            if made.returncode:
                raise ConfigError(f"OptiLLM cannot be installed: {made.stderr.strip().splitlines()[-1]}; leave the part optillm out.")
        done.touch()
    return python


def optillm(python: Path, base_url: str) -> Any:
    """OptiLLM in front of an endpoint; its URL for the body of the `with`."""
    environment = {"OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    command = [python, "-c", LAUNCH, "--base-url", base_url, "--log", "error", "--port"]
    return running("OptiLLM", command, environment)


def transformers_serve(model: Path) -> Any:
    """`transformers serve` of a checkpoint on the CPU; its URL for the body of the `with`."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [Path(sys.executable).with_name("transformers"), "serve", model, "--device", "cpu", "--host", "127.0.0.1", "--port"]
    return running("transformers serve", command, environment)


@contextmanager
def running(name: str, command: Sequence[str | Path], environment: dict[str, str]) -> Iterator[str]:
    """A server whose last argument is its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen([*command, str(port)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + START_S
        while not healthy(url):
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                said = (process.communicate()[1] or "it does not answer").strip().splitlines()
                raise ConfigError(f"{name} does not start: {said[-1]}; leave the part optillm out.")
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait()


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def chat_checkpoint(folder: Path) -> Path:
    """The shipped solver with a chat template that writes its prompt, and sampling on."""
    model = folder / "solver"
    shutil.copytree(ROOT / "reference/solver", model)
    change(model / "tokenizer_config.json", chat_template=TEMPLATE)
    change(model / "generation_config.json", do_sample=True)
    return model


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")
