"""YAML and overrides into strict models: every mistake is one sentence that names the key."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from cleave.config.base import Config, dump, load, read_yaml, validate
from cleave.errors import ConfigError


class Train(Config):
    """Inner section."""

    learning_rate: float = Field(1e-3, gt=0)
    """Step size."""
    betas: tuple[float, ...] = (0.9, 0.999)
    """Decay rates."""
    note: str | None = None
    """Free text."""


class Example(Config):
    """Outer config."""

    name: str = "x"
    """Run name."""
    problems: int = Field(10, ge=1)
    """How many."""
    train: Train = Train()
    """Training."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Anything."""


def given_overrides(*overrides: str) -> Example:
    return load(Example, None, overrides)


def test_overrides_are_yaml_values_at_dotted_paths() -> None:
    config = given_overrides("problems=3", "train.learning_rate=1e-3", "train.betas=[0.5, 1e-1]", "options.a.b=[x, {c: 1}]", "name='7'")
    assert config.problems == 3
    assert config.train.learning_rate == 0.001
    assert config.train.betas == (0.5, 0.1)
    assert config.options == {"a": {"b": ["x", {"c": 1}]}}
    assert config.name == "7"


def test_last_override_wins_and_null_is_none() -> None:
    assert given_overrides("train.note=a=b", "train.note=null").train.note is None
    assert given_overrides("train.note=a=b").train.note == "a=b"


def test_items_of_a_list_are_reached_by_number(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("options: {tasks: [{name: a, problems: 5}, b]}")
    config = load(Example, path, ["options.tasks.0.problems=9", "options.tasks.1=c", "options.tasks.0.more.deep=1"])
    assert config.options["tasks"] == [{"name": "a", "problems": 9, "more": {"deep": 1}}, "c"]
    for wrong in ("options.tasks.2=d", "options.tasks.first.name=d", "options.tasks.-1=d"):
        with pytest.raises(ConfigError, match="no item of a list of 2"):
            load(Example, path, [wrong])


@given(st.floats(min_value=1e-300, max_value=1e300, allow_nan=False))
def test_any_way_to_write_a_number_gives_that_number(value: float) -> None:
    for written in (repr(value), f"{value:e}", f"{value:.17e}".replace("e+", "e")):
        assert given_overrides(f"train.learning_rate={written}").train.learning_rate == float(written)


names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8) | st.sampled_from(
    ["1e5", "-.5E2", "7", "null", "yes", "1_0", "~"]
)


@given(names, st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4), st.integers(1, 99))
def test_dump_reads_back_as_the_same_config(name: str, betas: list[float], problems: int) -> None:
    config = validate(Example, {"name": name, "problems": problems, "train": {"betas": betas}, "options": {"x": name}}, "test")
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.write(dump(config))
        file.flush()
        assert load(Example, file.name) == config


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("problem=3", "did you mean 'problems'"),
        ("train.learning_rat=1", r"did you mean 'train\.learning_rate'"),
        ("note=here", r"did you mean 'train\.note'"),
        ("zzz=1", "unknown key 'zzz' in the command line; remove it"),
        ("problems=0", "problems in the command line"),
        ("train.learning_rate=fast", r"train\.learning_rate"),
        ("problems", "not of the form"),
        ("=3", "not of the form"),
        ("problems=[1", "not valid YAML"),
        ("train=5", "train in the command line"),
    ],
)
def test_each_mistake_is_one_sentence(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        given_overrides(override)
    assert "\n" not in str(caught.value)


def test_a_file_and_overrides_are_merged(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("problems: 4\ntrain: {note: here}\n")
    config = load(Example, path, ["train.learning_rate=0.5"])
    assert (config.problems, config.train.note, config.train.learning_rate) == (4, "here", 0.5)
    path.write_text("")
    assert load(Example, path) == Example()
    path.write_text("train: {betas: [1e-1, .5, 2E+0, 1.5e-3], note: 'nine 1e-3'}\nname: '1e5'\n")
    config = load(Example, path)
    assert (config.train.betas, config.name) == ((0.1, 0.5, 2.0, 0.0015), "1e5")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"- 1\n", "must be a mapping"),
        (b"a: [1\n", "not valid YAML"),
        (b"a: \xff\n", "cannot read"),
        (b"!!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_a_bad_file_is_one_sentence(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_where_the_shipped_ones_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="configs/"):
        load(Example, tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        load(Example, tmp_path)


def test_configs_cannot_be_changed() -> None:
    config = Example()
    with pytest.raises(ValueError, match="frozen"):
        config.problems = 5  # type: ignore[misc]


def test_an_override_goes_into_a_short_form() -> None:
    from cleave.config.evaluate import EvaluateConfig

    base = ["name=x", "tasks=[arithmetic]", "roles.solver=hf:a/b"]
    solver = load(EvaluateConfig, None, [*base, "roles.solver.resources.num_cpus=0.25"]).roles.solver
    assert (solver.model.short, solver.resources.num_cpus) == ("hf:a/b", 0.25)
    solver = load(EvaluateConfig, None, [*base, "roles.solver.model.dtype=bfloat16"]).roles.solver
    assert (solver.model.short, solver.model.dtype) == ("hf:a/b", "bfloat16")
    endpoint = ["roles.solver.model=openai:m@http://h/v1", "roles.solver.model.read_timeout_s=5"]
    solver = load(EvaluateConfig, None, [*base, *endpoint]).roles.solver
    assert (solver.model.short, solver.model.read_timeout_s) == ("openai:m@http://h/v1", 5)
