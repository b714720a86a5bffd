"""`cleave drafts`, `cleave ngrams` and `cleave bench superposition` on a tiny checkpoint, and the texts that they read."""

import io
import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import cleave.__main__ as command_line
from cleave.corpus import problem_texts, texts
from cleave.decoding.ngrams import NgramTables
from cleave.errors import ConfigError, DataError
from cleave.ngram_building import encoded
from cleave.prompts import load_prompts
from cleave.tasks.registry import get_task
from cleave.types import Problem


@pytest.fixture
def model(tiny_model_dir: Path) -> str:
    return f"hf:{tiny_model_dir}"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that succeeds prints."""
    code = command_line.main(list(arguments))
    written = capsys.readouterr()
    assert code == 0, written.err
    return written.out


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence of a command that fails by the user's mistake."""
    code = command_line.main(list(arguments))
    written = capsys.readouterr()
    assert (code, written.out, written.err.count("\n")) == (2, "", 1), written.err
    return written.err


def test_drafts_are_shown_best_first(model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shown = json.loads(run(capsys, "drafts", "2 + 2 =", "-k", "4", "--model", model, "--temperature", "1", "--max-tokens", "6", "--json"))
    perplexities = [draft["perplexity"] for draft in shown["drafts"]]
    assert len(perplexities) == 4
    assert perplexities == sorted(perplexities)
    assert all(len(draft["token_ids"]) == len(draft["logprobs"]) <= 6 for draft in shown["drafts"])
    table = run(capsys, "drafts", "2 + 2 =", "-k", "4", "--model", model, "--temperature", "1", "--max-tokens", "6")
    assert all(f"{value:.4g}" in table for value in perplexities)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"2 + 2 =")))
    again = run(capsys, "drafts", "-", "-k", "4", "--model", model, "--temperature", "1", "--max-tokens", "6", "--json")
    assert [draft["text"] for draft in json.loads(again)["drafts"]] == [draft["text"] for draft in shown["drafts"]]


def test_tables_are_built_shown_and_used(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("2 + 2 = 4\n2 + 2 = 5\n\nabc\n")
    (tmp_path / "rows.jsonl").write_text('{"body": "2 + 2 = 4"}\n{"body": "xyz"}\n')
    sources = [str(tmp_path / "notes.txt"), str(tmp_path / "rows.jsonl"), "task:arithmetic/train"]
    place = str(tmp_path / "tables")
    built = json.loads(run(capsys, "ngrams", "build", model, *sources, "--to", place, "--limit", "2", "--field", "body", "--json"))
    assert (built["place"], built["texts"], built["max_order"]) == (place, 2 + 2 + 2 * 2, 6)
    assert json.loads(run(capsys, "ngrams", "info", place, "--json")) == built
    assert f"{built['distinct'][-1]:,}" in run(capsys, "ngrams", "info", place)
    options = ["drafts", "2 + 2 =", "-k", "2", "--model", model, "--max-tokens", "2", "--json"]
    plain, smoothed = (json.loads(run(capsys, *options, *more)) for more in ([], ["--ngrams", place]))
    assert plain["drafts"][0]["logprob"] != smoothed["drafts"][0]["logprob"]


def test_without_a_place_tables_lie_under_their_address(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("one\n\ntwo\n")
    built = json.loads(run(capsys, "ngrams", "build", model, "notes.txt", "--max-order", "3", "--json"))
    assert built["place"] == f"runs/ngrams/{built['address']}"
    assert NgramTables.open(built["place"]).info.max_order == 3


def test_linearity_is_measured(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "plans.txt").write_text("\n\n".join(f"Question {i}\nPlan: x" for i in range(12)))
    options = ["bench", "superposition", model, str(tmp_path / "plans.txt"), "--prompts", "8", "--steps", "3"]
    shown = json.loads(run(capsys, *options, "--after", "Plan:", "--json"))
    assert [(step["step"], step["prompts"]) for step in shown["steps"]] == [(1, 8), (2, 8), (3, 8)]
    assert all(-1 <= step["cosine"] <= 1 for step in shown["steps"])
    table = run(capsys, *options, "--prefix-tokens", "9")
    assert "up to step" in table
    assert "too few" not in table


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["drafts", "", "--model", "MODEL"], "prefix is empty"),
        (["drafts", "a" * 600, "--model", "MODEL"], "limit is 512"),
        (["drafts", "a", "--model", "MODEL", "-k", "300"], "lower k"),
        (["drafts", "a", "--model", "MODEL", "-k", "0"], "k is 0"),
        (["drafts", "a", "--model", "gpt"], "hf:PATH"),
        (["drafts", "a", "--model", "openai:m@http://127.0.0.1:9/v1"], "needs drafts"),
        (["drafts", "a", "--model", "openai:m@http://127.0.0.1:9/v1", "--ngrams", "x"], "do not apply to a openai model"),
        (["drafts", "a", "--model", "MODEL", "--ngrams", "nowhere"], "no n-gram tables at nowhere"),
        (["ngrams", "info", "nowhere"], "cleave ngrams build"),
        (["ngrams", "build", "openai:m@http://h/v1", "task:arithmetic/train", "--limit", "1"], "local model"),
        (["ngrams", "build", "hf:/nowhere/at/all", "task:arithmetic/train", "--limit", "1"], "cannot load the tokenizer"),
        (["ngrams", "build", "MODEL", "task:arithmetic/train"], "--limit"),
        (["ngrams", "build", "MODEL", "task:arithmetic"], "task:NAME/SPLIT"),
        (["ngrams", "build", "MODEL", "task:arithmetic/nosplit", "--limit", "1"], "no split"),
        (["ngrams", "build", "MODEL", "notes.pdf"], ".txt or .jsonl"),
        (["ngrams", "build", "MODEL", "nowhere.txt"], "no file nowhere.txt"),
        (["ngrams", "build", "MODEL", "task:arithmetic/train", "--limit", "1", "--prompts", "instruct-v1"], "plain text"),
        (["bench", "superposition", "recorded:x"], "local model"),
        (["bench", "superposition", "MODEL", "--after", "nowhere", "--prompts", "2"], "give 0 prefixes"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], says: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in mistake(capsys, *(argument.replace("MODEL", model) for argument in arguments))


def test_tables_of_another_tokenizer_are_refused(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("one two three\n")
    run(capsys, "ngrams", "build", "reference:base", str(tmp_path / "notes.txt"), "--to", str(tmp_path / "t"))
    assert "counted with the tokenizer of reference:base" in mistake(
        capsys, "drafts", "a", "--model", model, "--ngrams", str(tmp_path / "t")
    )


def test_problems_become_what_the_roles_read_and_write() -> None:
    prompts = load_prompts("reference-v1")
    [problem] = get_task("arithmetic").problems("train", 1)
    assert problem.gold_plan is not None
    plan, solution = problem_texts(problem, prompts)
    assert plan == f"Question: {problem.text}\nPlan:\n{problem.gold_plan.text}\n"
    assert solution.startswith(f"Question: {problem.text}\nPlan:\n{problem.gold_plan.text}\nSolution:\n")
    assert solution.endswith(f"The answer is: {problem.answer}\n")
    assert problem_texts(Problem("1", "Why?", answer="7"), prompts) == ["Why?\n7"]
    assert problem_texts(Problem("1", "Why?"), prompts) == ["Why?"]


def test_texts_come_source_by_source(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\none\ntwo\n \n\nthree")
    (tmp_path / "b.jsonl").write_text('{"text": "four"}\n\n{"text": "five"}\n')
    sources = [str(tmp_path / "b.jsonl"), str(tmp_path / "a.txt")]
    assert list(texts(sources)) == ["four", "five", "one\ntwo\n", "three"]
    assert list(texts(sources, limit=1)) == ["four", "one\ntwo\n"]
    with pytest.raises(DataError, match="no field 'body'"):
        list(texts(sources, field="body"))
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match="not UTF-8"):
        list(texts([str(tmp_path / "a.txt")]))
    with pytest.raises(ConfigError, match="no texts"):
        texts([])


def test_texts_end_in_the_end_token(tiny_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    one, two = encoded(tokenizer, ["a", "ab"])
    assert (len(one), len(two)) == (2, 3)
    assert one[-1] == two[-1] == tokenizer.eos_token_id
    tokenizer.eos_token = None
    assert [len(ids) for ids in encoded(tokenizer, ["a", "ab"])] == [1, 2]
