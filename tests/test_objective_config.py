"""The section `objective`: what fits together, what is refused with which remedy, and that it is not there means cross-entropy."""

from typing import Any

import pytest

from cleave.config.base import validate
from cleave.config.distill import DistillConfig
from cleave.errors import ConfigError
from cleave.objectives import CrossEntropy
from pipelines.teachers import build_objective, distinct_teachers, place_of_teacher


def make_config(**changes: Any) -> DistillConfig:
    data: dict[str, Any] = {"name": "x", "role": "solver", "tasks": ["lookup", "reading", "arithmetic"], "init": {"fresh": {}}}
    return validate(DistillConfig, data | changes, "the test")


def test_no_objective_is_cross_entropy(tiny_tokenizer: Any) -> None:
    config = make_config()
    assert isinstance(build_objective(config, tiny_tokenizer), CrossEntropy)
    assert (config.objective.cross_entropy_share, distinct_teachers(config), place_of_teacher(config, "lookup")) == (1.0, [], 0)


def test_a_teacher_alone_means_its_distributions_alone() -> None:
    assert make_config(objective={"teacher": "hf:a"}).objective.cross_entropy_share == 0
    assert make_config(objective={"teacher": "hf:a", "cross_entropy": 0.3}).objective.cross_entropy_share == 0.3


def test_tasks_are_routed_to_their_teachers() -> None:
    config = make_config(objective={"teacher": "hf:a", "teachers": {"reading": "hf:b", "arithmetic": "hf:a"}})
    assert [teacher.short for teacher in distinct_teachers(config)] == ["hf:a", "hf:b"]
    assert [place_of_teacher(config, mix.title) for mix in config.tasks] == [0, 1, 0]


COLLECTION = {"source": "collection", "collection": {"path": "runs/teacher"}}


@pytest.mark.parametrize(
    ("objective", "changes", "message"),
    [
        ({"previous": "hf:a"}, {}, "name the upgrade as the teacher"),
        ({"previous": "openai:m@http://x", "teacher": "hf:b"}, {}, "does not show its distributions"),
        ({"previous": "hf:a", "teacher": "hf:b", "top_k": 8}, COLLECTION, "remove top_k"),
        ({"previous": "hf:a", "teacher": "hf:b", "lmbda": 0.5}, {}, "lmbda: 0"),
        ({"teacher": "openai:m@http://x/v1"}, {}, "does not show its distributions; name a teacher by hf:PATH"),
        ({"cross_entropy": 0.5}, {}, "a divergence needs a teacher; name one"),
        ({"teacher": "hf:a", "cross_entropy": 1.0}, {}, "would never be asked; lower it"),
        ({"lmbda": 0.5}, {}, "judged by a teacher; name one"),
        ({"top_k": 8}, COLLECTION, "name a teacher, or remove top_k"),
        ({"teacher": "hf:a", "top_k": 8, "lmbda": 0.5}, COLLECTION, "a teacher that runs along; remove top_k"),
        ({"teacher": "hf:a", "top_k": 8}, {}, "set source: collection, or remove objective.top_k"),
        ({"teacher": "hf:a", "top_k": 8}, COLLECTION | {"formats": {"step": 1.0}}, "format step shows another part each time"),
        ({"teachers": {"lookup": "hf:a"}}, {}, "'reading' has no teacher; name it in objective.teachers"),
        ({"teachers": {"chess": "hf:a"}}, {}, "'chess', which is no task of this run; there are lookup, reading, arithmetic"),
        ({"teacher": "hf:a", "beta": 1.5}, {}, "objective.beta"),
        ({"teacher": "hf:a", "temperature": 0}, {}, "objective.temperature"),
        (
            {"teacher": "hf:a", "lmbda": 0.5},
            {"backend": "ray", "resources_per_worker": {"GPU": 1}, "train": {"fsdp": True}},
            "set train.fsdp: false",
        ),
    ],
)
def test_mistakes_are_one_sentence_with_a_remedy(objective: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(objective=objective, **changes)
