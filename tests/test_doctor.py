"""`cleave doctor`: each check by itself, this machine alone, and the nodes of a real cluster."""

import json
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cleave.__main__ import main as cleave
from cleave.config.base import validate
from cleave.config.evaluate import EvaluateConfig
from cleave.config.model import ModelConfig
from cleave.config.programs import Command, command_of, distillations, models_of, recognise, runs_of
from cleave.config.serve import ServeConfig
from cleave.demands import Demand, demands_of, shortages
from cleave.doctor import (
    ENOUGH_SCRATCH,
    Finding,
    Marks,
    check_clocks,
    check_code,
    check_memory,
    check_models,
    check_room,
    check_scratch,
    check_space,
    check_storage,
    check_variables,
    check_versions,
    worst,
)
from cleave.errors import ConfigError
from cleave.node_report import ModelReport, NodeReport, Wanted, code_hash, examine, model_report, seen_marks, write_mark
from cleave.requirements import ray_release, unmet
from pipelines.doctor import check_listening, diagnose, failure
from pipelines.nodes import Asked

GB = 2**30
SMOKE = "configs/evaluate/smoke.yaml"


def make_report(name: str = "a", **changes: Any) -> NodeReport:
    report = NodeReport(
        name=name,
        python="3.11.7",
        versions={"ray": "2.60.0", "torch": "2.13.0"},
        code="c0de",
        clock=0.0,
        memory=8 * GB,
        scratch=50 * GB,
    )
    return replace(report, **changes)


def statuses(findings: list[Finding]) -> dict[str, str]:
    return {found.name: found.status for found in findings}


def test_equal_versions_are_well() -> None:
    found = check_versions([make_report("a"), make_report("b")], make_report("here"), "2.60.0")
    assert statuses(found) == {"python": "ok", "ray": "ok", "torch": "ok"}
    assert check_code([make_report("a"), make_report("b")]).status == "ok"


def test_another_version_names_the_node_and_what_to_install() -> None:
    odd = make_report("b", python="3.12.1", versions={"ray": "2.59.0"})
    found = {each.name: each for each in check_versions([make_report("a"), odd], make_report("here"), "2.60.0")}
    assert found["python"].status == "fail"
    assert "3.12.1 on b" in found["python"].what
    assert "none on b" in found["torch"].what
    assert found["ray release"].remedy == "install ray==2.60.0 on every node"
    assert check_code([make_report("a"), make_report("b", code="other")]).status == "fail"


@pytest.mark.parametrize(
    ("ahead", "error", "status"), [(0.1, 0.2, "ok"), (-9.0, 8.0, "ok"), (4.0, 1.0, "warn"), (-40.0, 1.0, "warn"), (400.0, 1.0, "fail")]
)
def test_clocks_are_judged_by_what_is_certain(ahead: float, error: float, status: str) -> None:
    found = check_clocks({"a": (0.0, 0.01), "b": (ahead, error)})
    assert found.status == status
    if status != "ok":
        assert f"b is {abs(ahead):.1f} s {'ahead' if ahead > 0 else 'behind'}" in found.what


def test_storage_that_one_node_cannot_write() -> None:
    (found,) = check_storage("/shared", Marks({"a": "", "b": "cannot write to /shared (Read-only file system)."}, {}), job=True)
    assert found.status == "fail"
    assert "1 of 2 nodes cannot write to /shared; b: cannot write" in found.what


def test_storage_that_is_not_shared() -> None:
    marks = Marks({"a": "", "b": ""}, {"a": ["a"], "b": ["b"]})
    found = check_storage("/tmp/here", marks, job=True)
    assert statuses(found) == {"storage": "ok", "shared storage": "fail"}
    assert "a does not see what b wrote" in found[1].what
    assert worst(check_storage("s3://x", Marks({"a": "", "b": ""}, {key: ["a", "b"] for key in "ab"}), job=True)) == "ok"


def test_results_inside_a_job_would_be_deleted() -> None:
    marks = Marks({"a": ""}, {"a": ["a"]})
    assert statuses(check_storage("runs", marks, job=True)) == {"storage": "fail"}
    assert statuses(check_storage("runs", marks, job=False)) == {"storage": "ok"}
    assert check_storage(None, Marks({}, {}), job=True) == []


def test_disks() -> None:
    assert check_space(GB, "/x").status == "warn"
    assert check_space(None, "s3://x").status == "ok"
    assert check_scratch([make_report("a"), make_report("b", scratch=ENOUGH_SCRATCH - 1)]).status == "warn"


def test_models_are_looked_for_on_every_node() -> None:
    def of(revision: str | None, **changes: Any) -> dict[str, ModelReport]:
        return {"roles.solver.model": ModelReport("hf:/m", True, revision, **changes)}

    same = [make_report("a", models=of("1")), make_report("b", models=of("1"))]
    assert [found.status for found in check_models(same)] == ["ok"]
    lost = replace(of("1")["roles.solver.model"], found=False, problem="there is no such folder")
    (missing,) = check_models([same[0], make_report("b", models={"roles.solver.model": lost})])
    assert missing.status == "fail"
    assert "hf:/m on b: there is no such folder" in missing.what
    (mixed,) = check_models([same[0], make_report("b", models=of("2"))])
    assert mixed.status == "fail"
    (large,) = check_memory([make_report("a", models=of("1", weights=7 * GB))])
    assert large.status == "warn"
    assert check_memory(same) == []


def test_variables_are_wanted_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SET_HERE", "a value that nobody shows")
    monkeypatch.delenv("NOT_SET", raising=False)
    report = examine(Wanted(variables=("SET_HERE", "NOT_SET")), "here")
    assert report.missing == ("NOT_SET",)
    found = check_variables([report], ["SET_HERE", "NOT_SET"])
    assert [each.status for each in found] == ["ok", "fail"]
    assert "a value" not in str(found)


def test_a_bundle_has_to_fit_on_one_node() -> None:
    workers = Demand("workers", 2, {"CPU": 3.0}, "resources_per_worker")
    assert shortages({"run": [workers]}, [{"CPU": 6.0}]) == []
    (short,) = shortages({"run": [workers]}, [{"CPU": 2.0}] * 5)
    assert (short.placed, short.missing) == (0, "CPU")
    (short,) = shortages({"run": [workers]}, [{"CPU": 4.0}, {"CPU": 2.0}])
    assert short.placed == 1
    (found,) = check_room({"run": [workers]}, [{"CPU": 4.0}, {"CPU": 2.0}])
    assert "2 workers with 3 CPU each, of which 1 fit; 2 nodes, the largest with 4 CPU" in found.what
    assert "ask for 1 of them, lower resources_per_worker (CPU), or add nodes" in found.remedy


def test_gpus_memory_and_custom_resources_count() -> None:
    node = {"CPU": 8.0, "memory": 16.0 * GB, "licence": 1.0}
    fits = Demand("workers", 1, {"CPU": 1.0, "memory": 16.0 * GB, "licence": 1.0}, "f")
    assert shortages({"run": [fits]}, [node]) == []
    for name, amount in {"GPU": 1.0, "memory": 17.0 * GB, "licence": 1.5}.items():
        (short,) = shortages({"run": [Demand("workers", 1, {name: amount}, "f")]}, [node])
        assert short.missing == name


def test_runs_of_one_config_come_after_one_another(root: Path) -> None:
    for name in ("studies/which_verifier", "studies/demo", "iterate/solver", "tune/smoke", "serve/reference", "examples/gsm8k-students"):
        config = recognise(root / "configs" / f"{name}.yaml").config()
        for wanted in demands_of(config).values():
            assert check_room({"run": wanted}, [{"CPU": 64.0}])[0].status == "ok"
        assert all("to-come" not in model.short for model in models_of(config).values())
    study = recognise(root / "configs/studies/demo.yaml").config()
    assert "collection" in runs_of(study)
    assert list(distillations(recognise(root / "configs/tune/smoke.yaml").config())) == ["trial"]


def test_commands_name_their_config() -> None:
    words = ["evaluate", "--json", "a.yaml", "problems=3", "--selection", "all"]
    assert command_of(words) == Command("evaluate", "a.yaml", ("problems=3",))
    assert command_of(["tune", "curriculum", "b.yaml"]) == Command("tune curriculum", "b.yaml")
    assert command_of(["ask", "How many?"]) is None
    assert command_of(["serve"]) is None


def test_a_config_that_no_program_accepts(tmp_path: Path) -> None:
    wrong = tmp_path / "evaluate" / "x.yaml"
    wrong.parent.mkdir()
    wrong.write_text("name: x\ntasks: arithmetic\nmax_in_fligth: 3\n")
    with pytest.raises(ConfigError, match=r"`cleave evaluate` says: .*max_in_flight"):
        recognise(wrong)


def test_models_as_a_machine_sees_them(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = model_report(ModelConfig.model_validate(f"hf:{tiny_model_dir}"))
    assert there.found
    assert there.revision
    assert there.weights > 0
    for missing in (f"hf:{tmp_path}/nowhere", f"recorded:{tmp_path}/none.jsonl", "reference:nobody"):
        report = model_report(ModelConfig.model_validate(missing))
        assert not report.found
        assert report.problem
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert "HF_HUB_OFFLINE" in model_report(ModelConfig.model_validate("hf:nobody/nothing")).problem
    with socket.socket() as open_port:
        open_port.bind(("127.0.0.1", 0))
        endpoint = ModelConfig.model_validate(f"openai:m@http://127.0.0.1:{open_port.getsockname()[1]}/v1")
        assert "nothing answers" in model_report(endpoint).problem
        open_port.listen()
        assert model_report(endpoint).found


def test_marks_are_seen_by_who_shares_the_folder(tmp_path: Path) -> None:
    assert write_mark(str(tmp_path / "a"), "doctor-1", "n1") == ""
    assert write_mark(str(tmp_path / "a"), "doctor-1", "n2") == ""
    assert seen_marks(str(tmp_path / "a"), "doctor-1") == ["n1", "n2"]
    assert seen_marks(str(tmp_path / "b"), "doctor-1") == []
    (tmp_path / "file").write_text("")
    assert "set storage_path elsewhere" in write_mark(str(tmp_path / "file"), "doctor-1", "n1")


def test_code_hash_follows_the_sources(tmp_path: Path) -> None:
    (tmp_path / "cleave").mkdir()
    (tmp_path / "cleave" / "a.py").write_text("x = 1\n")
    before = code_hash(tmp_path)
    assert code_hash(tmp_path) == before
    (tmp_path / "cleave" / "a.py").write_text("x = 2\n")
    assert code_hash(tmp_path) != before


def test_requirements_of_this_tree_are_met() -> None:
    assert unmet() == []
    assert ray_release() == "2.60.0"


def test_an_error_becomes_what_and_remedy() -> None:
    assert failure("x", "it is wrong; change this; or that.") == Finding("x", "fail", "it is wrong; change this", "or that")
    assert failure("x", "it is wrong.") == Finding("x", "fail", "it is wrong", "")


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = ServeConfig(port=taken.getsockname()[1])
        assert check_listening(config).status == "fail"
    assert check_listening(config).status == "ok"


def test_without_a_cluster_it_looks_at_this_machine(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cleave(["doctor", str(root / SMOKE), f"storage_path={tmp_path}", "roles.solver.resources.num_replicas=3", "--json"]) in (0, 2)
    said = json.loads(capsys.readouterr().out)
    assert said["scope"].startswith("this machine only")
    assert {"requirements", "python", "ray", "storage", "disk", "model", "room"} <= {found["name"] for found in said["findings"]}
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"
    assert cleave(["doctor", str(root / SMOKE), f"storage_path={tmp_path}", "roles.solver.resources.num_cpus=10000"]) == 2
    shown = capsys.readouterr().out
    assert "roles.solver.resources" in shown
    assert cleave(["doctor", str(tmp_path / "none.yaml")]) == 2
    assert "no config file" in capsys.readouterr().err


def test_trainings_are_examined_without_weights(tmp_path: Path, root: Path, tiny_model_dir: Path) -> None:
    config = recognise(root / "configs/distill/divergence.yaml", [f"storage_path={tmp_path}"]).config()
    assert "tokenizer" in statuses(diagnose(config, None)[0])
    other = recognise(
        root / "configs/distill/divergence.yaml", [f"storage_path={tmp_path}", f"objective.teacher=hf:{tiny_model_dir}"]
    ).config()
    found = {each.name: each for each in diagnose(other, None)[0]}["tokenizer"]
    assert found.status == "fail"
    assert "vocabulary" in found.what or "token" in found.what


def an_evaluation(tmp_path: Path, tiny_model_dir: Path, cpus: float = 0.5) -> EvaluateConfig:
    role = {"model": f"hf:{tiny_model_dir}", "prompts": "reference-v1", "resources": {"num_cpus": cpus}}
    data = {"name": "x", "tasks": "arithmetic", "storage_path": str(tmp_path), "roles": {"decomposer": role, "solver": role}}
    return validate(EvaluateConfig, data, "a test")


@pytest.mark.ray
def test_nodes_of_a_cluster_are_asked(ray_session: None, tmp_path: Path, tiny_model_dir: Path) -> None:
    findings, examined = diagnose(an_evaluation(tmp_path, tiny_model_dir), "auto")
    found = statuses(findings)
    assert worst(findings) != "fail", findings
    assert {"python", "torch", "cleave", "clock", "storage", "model", "room", "token", "dashboard"} <= set(found)
    assert len(examined.reports) == len(examined.resources) == 1
    assert examined.reports[0].code == code_hash()
    assert list(tmp_path.iterdir()) == []
    assert statuses(diagnose(an_evaluation(tmp_path, tiny_model_dir, cpus=3), "auto")[0])["room"] == "fail"


def _sleep() -> None:
    time.sleep(60)


def _fail() -> None:
    raise OSError("the disk is gone")


@pytest.mark.ray
def test_a_node_that_does_not_answer_is_a_finding(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    node = {"here": ray.get_runtime_context().get_node_id()}
    asked = Asked(node)
    assert asked.ask(_fail) == {}
    assert "the disk is gone" in asked.findings[0].what
    monkeypatch.setattr("pipelines.nodes.ANSWER_WITHIN_S", 1.0)
    monkeypatch.setattr("pipelines.nodes.SAY_EVERY_S", 0.3)
    asked = Asked(node)
    assert asked.ask(_sleep) == {}
    assert asked.findings[0].status == "fail"
    assert "did not answer within 1 s" in asked.findings[0].what
    assert asked.nodes == {}, "it is asked no more"
