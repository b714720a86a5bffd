"""What the application is built from: arguments, the files under configs/serve, and the keys that Ray Serve would accept in silence."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from cleave.config.base import validate
from cleave.config.serve import ServeArgs, ServeConfig, load_serve, nest
from cleave.config.serve_keys import is_loopback
from cleave.errors import ConfigError, DataError, RoleUnavailable
from serve.run import check_port, main, reason_of

DEPLOY_FILE = {
    "http_options": {"host": "127.0.0.1", "port": 8000},
    "applications": [
        {
            "name": "cleave",
            "route_prefix": "/",
            "import_path": "serve.app:build",
            "args": {"roles": {"solver": "hf:x"}},
            "deployments": [{"name": "Solver", "num_replicas": 2, "ray_actor_options": {"num_cpus": 1}, "user_config": {"any": 1}}],
        }
    ],
}


def with_key(path: str, value: Any) -> dict[str, Any]:
    """DEPLOY_FILE with one key set."""
    data: dict[str, Any] = yaml.safe_load(yaml.safe_dump(DEPLOY_FILE))
    *parents, last = path.split(".")
    section: Any = data
    for parent in parents:
        section = section[int(parent)] if isinstance(section, list) else section.setdefault(parent, {})
    section[last] = value
    return data


def test_each_strategy_is_a_model_unless_pipelines_are_named() -> None:
    models = ServeArgs.model_validate({"reasoning": {"n": 4, "plans": 2, "temperature": 1, "plan_temperature": 1}}).models()
    assert list(models) == ["cleave", "cleave-direct", "cleave-single", "cleave-static", "cleave-stepwise"]
    assert models["cleave-stepwise"].plans == 2
    assert models["cleave-single"].plans == 1
    named = ServeArgs.model_validate({"name": "dnc", "pipelines": {"dnc-vote": {"n": 8, "temperature": 1, "selection": "majority"}}})
    assert list(named.models()) == ["dnc", "dnc-vote"]


def test_serve_run_passes_flat_strings() -> None:
    args = ServeArgs.model_validate({"roles.solver.model": "hf:x", "roles.solver.max_tokens": "9", "reasoning.strategy": "single"})
    assert (args.roles.solver.model.short, args.roles.solver.max_tokens, args.reasoning.strategy) == ("hf:x", 9, "single")


@pytest.mark.parametrize("flat", [{"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}])
def test_a_key_is_a_value_or_a_section(flat: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="'a"):
        nest(flat)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"role": {}}, "did you mean 'roles'"),
        ({"limits": {"max_question_byte": 1}}, "did you mean 'limits.max_question_bytes'"),
        ({"name": "solver"}, "the name of a role"),
        ({"name": "a b"}, "is no model name"),
        ({"pipelines": {"cleave": {}}}, "already described"),
        ({"reasoning": {"n": 100, "temperature": 1}}, "raise limits.max_n"),
        ({"reasoning": {"strategy": "guess"}}, "reasoning.strategy"),
    ],
)
def test_bad_arguments_are_one_sentence(data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        validate(ServeArgs, data, "the test")


@pytest.mark.parametrize("name", ["local.yaml", "guarded.yaml"])
def test_shipped_config_dry_runs(root: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_serve(root / "configs/serve" / name, ["port=9000"])
    assert main(config, dry_run=True) == 0
    assert ServeConfig.model_validate(yaml.safe_load(capsys.readouterr().out)) == config
    assert config.port == 9000
    assert config.args().roles == config.roles


def test_cleave_serve_says_what_to_do_with_a_deploy_file(root: Path) -> None:
    with pytest.raises(ConfigError, match="serve run"):
        load_serve(root / "configs/serve/reference.yaml")


def test_every_file_of_the_folder_is_covered(root: Path) -> None:
    from serve.deploy_file import check_deploy_file

    for path in (root / "configs/serve").glob("*.yaml"):
        if "applications" in yaml.safe_load(path.read_text()):
            assert check_deploy_file(path).applications[0].import_path == "serve.app:build"
        else:
            load_serve(path)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("http_option", {}, "'http_option'.*'http_options'"),
        ("http_options.prot", 1, "'http_options.prot'.*'port'"),
        ("applications.0.deployment", [], "'applications.0.deployment'.*'deployments'"),
        ("applications.0.deployments.0.num_replica", 1, "'num_replicas'"),
        ("applications.0.deployments.0.autoscaling_config.min_replica", 1, "'min_replicas'"),
        ("applications.0.deployments.0.ray_actor_options.num_cpu", 1, "'num_cpus'"),
        ("applications.0.deployments.0.name", "Solve", "ours are Ingress"),
        ("applications.0.args.roles.solvr", "hf:x", "'roles.solvr'.*'roles.solver'"),
        ("applications.0.args.limits.max_n", 0, "max_n"),
        ("applications.0.route_prefix", "nope", "route_prefix"),
        ("http_options.host", "0.0.0.0", "keys are needed"),
        ("applications", 3, "applications"),
    ],
)
def test_deploy_files_are_checked_strictly(tmp_path: Path, path: str, value: Any, sentence: str) -> None:
    from serve.deploy_file import check_deploy_file
    from serve.deploy_file import main as check

    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(yaml.safe_dump(DEPLOY_FILE))
    check_deploy_file(good)
    bad.write_text(yaml.safe_dump(with_key(path, value)))
    with pytest.raises(ConfigError, match=sentence):
        check_deploy_file(bad)
    assert (check([str(good)]), check([str(good), str(bad)])) == (0, 2)


@pytest.mark.parametrize("name", ["reference.yaml", "cpu-cluster.yaml", "gpu-cluster.yaml"])
def test_shipped_deploy_files_build_what_they_override(root: Path, name: str) -> None:
    """All but starting it: Serve's own checks of options and overrides."""
    from serve.app import build
    from serve.deploy_file import check_deploy_file

    (application,) = check_deploy_file(root / "configs/serve" / name).applications
    args = ServeArgs.model_validate(application.args)
    assert build(args)._bound_deployment.name == "Ingress"
    played = {role.capitalize() for role in args.roles.played()} | {"Ingress"}
    assert {deployment.name for deployment in application.deployments} <= played


def test_an_ingress_that_others_reach_needs_keys() -> None:
    from serve.ingress import check_guarded

    with pytest.raises(ConfigError, match=r"Serve listens on 0\.0\.0\.0, which others reach, so keys are needed"):
        check_guarded(ServeArgs(), "0.0.0.0")
    for host in ("127.0.0.1", None):
        check_guarded(ServeArgs(), host)
    check_guarded(ServeArgs.model_validate({"keys": {"env": "K"}}), "0.0.0.0")


def test_a_taken_port_is_found_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="--port"):
            check_port("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match="--host"):
        check_port("192.0.2.77", 0)


def test_loopback() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "localhost", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "10.0.0.1", "example.org"))


def test_a_failed_start_is_told_by_its_own_sentence() -> None:
    message = "The deployment failed to start.\n  File 'x.py', line 1\ncleave.errors.DataError: no such file; check it."
    error = reason_of({"Ingress": "", "Decomposer": "takes more than 30 s to be scheduled", "Solver": message}, "failed")
    assert type(error) is DataError
    assert str(error) == "Solver cannot start: no such file; check it."
    other = reason_of({"Solver": "Traceback\nKeyError: 'x'\n"}, "failed")
    assert isinstance(other, RoleUnavailable)
    assert "KeyError" in str(other)
    assert "failed" in str(reason_of({"Solver": ""}, "failed"))


def test_a_server_keeps_no_replies() -> None:
    with pytest.raises(ConfigError, match=r"roles\.solver\.model\.cache would keep all that clients ask"):
        validate(ServeArgs, {"roles": {"solver": {"model": {"short": "reference:solver", "cache": "x"}}}}, "test")
