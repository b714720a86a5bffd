"""Every shipped config is read by the program that it is written for, chosen by its folder; an unknown folder is an error."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cleave.config.base import Config, dump, load, read_yaml, validate
from cleave.config.collect import CollectConfig
from cleave.config.distill import DistillConfig
from cleave.config.evaluate import EvaluateConfig
from cleave.config.iterate import IterateConfig
from cleave.config.serve import ServeArgs, load_serve, validate_args
from cleave.config.sparsity import SparsitySearchConfig
from cleave.config.students import StudentsConfig, load_distill
from cleave.config.study import StudyConfig
from cleave.config.tune import CurriculumSearchConfig
from cleave.config.verifier_study import VerifierStudyConfig, load_study
from cleave.config.where import WhereConfig, load_where
from cleave.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def read_serve(path: Path) -> Config:
    """A config of `cleave serve`, or the `args` of every application in a Ray Serve config file."""
    data = read_yaml(path)
    if "applications" not in data:
        return load_serve(path)
    (application,) = data["applications"]
    assert application["import_path"] == "serve.app:build"
    return validate_args(application.get("args") or {}, str(path))


def read_example(path: Path) -> Config:
    """A worked example: the last word of its name says which program reads it, `cleave distill` where it is none."""
    if path.stem.endswith("-collect"):
        return load(CollectConfig, path)
    return load(EvaluateConfig, path) if path.stem.endswith("-evaluate") else load_distill(path)


READERS: dict[str, Callable[[Path], Config]] = {
    "collect": lambda path: load(CollectConfig, path),
    "evaluate": lambda path: load(EvaluateConfig, path),
    "distill": lambda path: load(DistillConfig, path),
    "examples": read_example,
    "reference": lambda path: load(DistillConfig, path),
    "iterate": lambda path: load(IterateConfig, path),
    "serve": read_serve,
    "studies": load_study,
    "tune": lambda path: load(SparsitySearchConfig if path.stem == "sparsity" else CurriculumSearchConfig, path),
    "where": load_where,
}


def reader(path: Path) -> Callable[[Path], Config]:
    folder = path.relative_to(ROOT / "configs").parts[0]
    assert folder in READERS, f"configs/{folder} is unknown; say in tests/test_configs.py what reads it"
    return READERS[folder]


def test_there_are_configs_and_each_lies_in_a_folder() -> None:
    assert CONFIGS
    assert not list((ROOT / "configs").rglob("*.yml")), "the ending is .yaml"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.relative_to(ROOT / "configs").as_posix())
def test_shipped_config_loads_and_dumps(path: Path, tmp_path: Path) -> None:
    config = reader(path)(path)
    again = tmp_path / "resolved.yaml"
    again.write_text(dump(config), encoding="utf-8")
    assert load(type(config), again) == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.relative_to(ROOT / "configs").as_posix())
def test_shipped_config_refuses_an_unknown_key(path: Path, tmp_path: Path) -> None:
    data = read_yaml(path)
    target = data["applications"][0].setdefault("args", {}) if "applications" in data else data
    target["no_such_key"] = 1
    wrong = tmp_path / path.name
    wrong.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(ConfigError, match="no_such_key"):
        reader(path)(wrong)


def test_unknown_folder_is_an_error() -> None:
    with pytest.raises(AssertionError, match="configs/nowhere is unknown"):
        reader(ROOT / "configs" / "nowhere" / "a.yaml")


@pytest.mark.parametrize(
    "cls",
    [
        CollectConfig,
        CurriculumSearchConfig,
        EvaluateConfig,
        DistillConfig,
        ServeArgs,
        SparsitySearchConfig,
        StudentsConfig,
        StudyConfig,
        VerifierStudyConfig,
        IterateConfig,
        WhereConfig,
    ],
)
def test_every_field_says_what_it_means(cls: type[Config]) -> None:
    def undocumented(schema: dict[str, object]) -> list[str]:
        models = [schema, *schema.get("$defs", {}).values()]  # type: ignore[attr-defined]
        return [
            f"{model['title']}.{name}"
            for model in models
            for name, field in model.get("properties", {}).items()
            if "description" not in field
        ]

    assert undocumented(cls.model_json_schema()) == []


def test_validate_names_the_source() -> None:
    with pytest.raises(ConfigError, match=r"in somewhere\.yaml"):
        validate(ServeArgs, {"limits": {"max_n": 0}}, "somewhere.yaml")
