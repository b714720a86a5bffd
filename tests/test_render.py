"""Rendered files: they are those on disk, fit the schemas of KubeRay, Kubernetes, Serve and `ray up`, and hold what their configs say."""

import copy
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cleave.__main__ import main as cleave
from cleave.config.base import validate
from cleave.config.programs import Command, command_of
from cleave.config.serve import load_serve
from cleave.config.where import WhereConfig, load_where
from cleave.demands import demands_of, shortages
from cleave.errors import ConfigError
from cleave.requirements import ray_release
from cluster.dockerfile import FOLDERS, dockerfile
from cluster.kubernetes import TREE, grown, nodes_of, ray_cluster, ray_job, ray_service
from cluster.ray_up import aws, machines
from cluster.render import JOBS, compare, shipped
from cluster.schema import check
from serve.deploy_file import check_deploy_file

ROOT = Path(__file__).resolve().parent.parent
KUBERNETES = "1.35"
MANIFESTS = sorted(name for name in shipped() if name.startswith("kubernetes/"))
RAY_KINDS = ("RayCluster", "RayJob", "RayService")


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return shipped()


@pytest.fixture
def where() -> WhereConfig:
    return load_where(ROOT / "configs/where/kubernetes.yaml")


def manifest(files: dict[str, str], name: str) -> dict[str, Any]:
    (document,) = yaml.safe_load_all(files[name])
    return dict(document)


def cluster_of(data: dict[str, Any]) -> dict[str, Any]:
    spec = data["spec"]
    return dict(spec if data["kind"] == "RayCluster" else spec.get("rayClusterSpec") or spec["rayClusterConfig"])


def pods_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = cluster_of(data)
    return [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]


def submitters_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    return [data["spec"]["submitterPodTemplate"]] if "submitterPodTemplate" in data["spec"] else []


def test_what_is_on_disk_is_what_is_rendered(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(files, ROOT / "cluster") == 0, capsys.readouterr().err
    kinds = ("*.yaml", "Dockerfile*")
    there = {path.relative_to(ROOT / "cluster").as_posix() for kind in kinds for path in (ROOT / "cluster").rglob(kind)}
    assert {path for path in there if not path.startswith("grafana/")} == set(files), "every manifest there has its source"


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_fit_their_schema(files: dict[str, str], name: str) -> None:
    data = manifest(files, name)
    check(data)
    if data["kind"] == "NetworkPolicy":
        kubernetes_validate.validate(data, KUBERNETES, strict=True)
    if data["kind"] not in RAY_KINDS:
        return
    for template in (*pods_of(data), *submitters_of(data)):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", **template["metadata"]}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_schemas_catch_mistakes(files: dict[str, str]) -> None:
    job = manifest(files, "kubernetes/rayjob-evaluate.yaml")
    for place, value in (
        (("spec", "activeDeadlineSecond"), 3),
        (("spec", "backoffLimit"), "two"),
        (("spec", "submissionMode"), "K8sMode"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "tokens"),
        (("spec", "rayClusterSpec", "rayVersion"), "latest"),
        (("metadata", "name"), "Has_Capitals"),
    ):
        wrong: dict[str, Any] = copy.deepcopy(job)
        section = wrong
        for part in place[:-1]:
            section = section[part]
        section[place[-1]] = value
        with pytest.raises(ConfigError, match="RayJob"):
            check(wrong)
    template = pods_of(job)[0]
    template["spec"]["containers"][0]["port"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}, KUBERNETES, strict=True
        )
    service = manifest(files, "kubernetes/rayservice.yaml")
    del service["spec"]["rayClusterConfig"]["enableInTreeAutoscaling"]
    with pytest.raises(ConfigError, match="incremental upgrade needs enableInTreeAutoscaling"):
        check(service)


@pytest.mark.parametrize("name", MANIFESTS)
def test_secrets_are_named_and_tokens_asked_for(files: dict[str, str], name: str, where: WhereConfig) -> None:
    data = manifest(files, name)
    if data["kind"] not in RAY_KINDS:
        return
    cluster = cluster_of(data)
    assert cluster["authOptions"] == {"mode": "token", "secretName": "cleave-ray-token"}
    assert cluster["rayVersion"] == ray_release()
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for template in pods_of(data):
        (container,) = template["spec"]["containers"]
        variables = {each["name"]: each for each in container["env"]}
        for secret in where.secrets:
            assert variables[secret] == {"name": secret, "valueFrom": {"secretKeyRef": {"name": "cleave-secrets", "key": secret}}}
        assert container["image"] != "latest"
        assert template["spec"]["securityContext"]["runAsNonRoot"]


@pytest.mark.parametrize("name", sorted(JOBS))
def test_a_job_runs_its_config_on_nodes_that_hold_it(files: dict[str, str], name: str, where: WhereConfig) -> None:
    data = manifest(files, f"kubernetes/{name}")
    python, dash, module, *words = shlex.split(data["spec"]["entrypoint"])
    assert (python, dash, module) == ("python", "-m", "cleave")
    command = command_of(words)
    assert command is not None
    assert command.path.startswith(f"{TREE}/configs/")
    config = command._replace(path=str(ROOT / command.path.removeprefix(f"{TREE}/"))).config()
    assert getattr(config, "storage_path", None) == where.storage_path
    nodes = [
        {"CPU": float(group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])}
        for group in data["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        for _ in range(group["replicas"])
    ]
    assert demands_of(config)
    assert shortages(demands_of(config), nodes) == [], "it starts at once, and waits for no autoscaler"


def test_groups_grow_to_what_a_config_needs(where: WhereConfig) -> None:
    evaluate = "configs/evaluate/smoke.yaml"

    def replicas(*overrides: str) -> dict[str, int]:
        assert where.fleet is not None
        return {
            group.name: group.replicas for group in grown(where.fleet.groups, demands_of(Command("evaluate", evaluate, overrides).config()))
        }

    evaluate = str(ROOT / evaluate)
    solvers = "roles.solver.resources"
    assert replicas() == {"cpu": 1, "gpu": 0}
    assert replicas(f"{solvers}.num_replicas=10", f"{solvers}.num_cpus=1") == {"cpu": 3, "gpu": 0}
    assert replicas(f"{solvers}.num_gpus=1") == {"cpu": 1, "gpu": 1}
    for too_much in (f"{solvers}.num_cpus=9", f"{solvers}.num_replicas=300", f"{solvers}.num_gpus=2"):
        with pytest.raises(ConfigError, match=r"fit on the fleet at its largest; raise max_replicas"):
            replicas(too_much)
    assert where.fleet is not None
    assert nodes_of(where.fleet.groups[0]) == [{"CPU": 4.0, "GPU": 0.0, "memory": 16 * 2.0**30}]


def test_a_config_outside_the_tree_is_not_in_the_image(where: WhereConfig, tmp_path: Path) -> None:
    outside = tmp_path / "mine.yaml"
    outside.write_text((ROOT / "configs/evaluate/smoke.yaml").read_text())
    with pytest.raises(ConfigError, match="lies outside the tree"):
        ray_job(where, Command("evaluate", str(outside)))


def test_serve_config_inside_the_service(files: dict[str, str], tmp_path: Path, where: WhereConfig) -> None:
    data = manifest(files, "kubernetes/rayservice.yaml")
    (tmp_path / "serve.yaml").write_text(data["spec"]["serveConfigV2"])
    schema = check_deploy_file(tmp_path / "serve.yaml")
    assert schema.http_options.host == "0.0.0.0"
    assert schema.applications[0].import_path == "serve.app:build"
    assert data["spec"]["upgradeStrategy"]["type"] == "NewClusterWithIncrementalUpgrade"
    other = load_serve(ROOT / "configs/serve/guarded.yaml", ["application=math", "route_prefix=/math"])
    named = ray_service(where, other)
    assert named["metadata"]["name"] == "cleave-math"
    assert yaml.safe_load(named["spec"]["serveConfigV2"])["applications"][0]["route_prefix"] == "/math"
    with pytest.raises(ConfigError, match="so keys are needed"):
        ray_service(where, load_serve(ROOT / "configs/serve/local.yaml"))
    with pytest.raises(ConfigError, match="which the pods do not get; add it to `secrets`"):
        ray_service(where, load_serve(ROOT / "configs/serve/guarded.yaml", ["keys.env=OTHER"]))


def test_monitor_and_policy_select_the_same_pods(files: dict[str, str]) -> None:
    labels = {"app.kubernetes.io/part-of": "cleave"}
    monitor, policy = manifest(files, "kubernetes/podmonitor.yaml"), manifest(files, "kubernetes/networkpolicy.yaml")
    assert monitor["spec"]["selector"]["matchLabels"] == policy["spec"]["podSelector"]["matchLabels"] == labels
    pods = pods_of(manifest(files, "kubernetes/raycluster.yaml"))
    named = {port["name"]: port["containerPort"] for pod in pods for port in pod["spec"]["containers"][0]["ports"]}
    assert all(pod["metadata"]["labels"] == labels for pod in pods)
    assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= set(named)
    opened = [port["port"] for rule in policy["spec"]["ingress"][1:] for port in rule["ports"]]
    assert set(opened) <= set(named.values())
    assert named["gcs-server"] not in opened, "only Ray's own pods speak to the head"
    (submitter,) = submitters_of(manifest(files, "kubernetes/rayjob-tune.yaml"))
    allowed = [
        rule for rule in policy["spec"]["ingress"] if rule["from"] == [{"podSelector": {"matchLabels": submitter["metadata"]["labels"]}}]
    ]
    assert named["dashboard"] in [port["port"] for rule in allowed for port in rule["ports"]], "it hands the command over"


def test_launch_files_are_accepted_by_ray(files: dict[str, str]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    for name in ("machines.yaml", "aws.yaml"):
        data = yaml.safe_load(files[name])
        prepared = prepare_config(copy.deepcopy(data))
        validate_config(prepared)
        assert prepared["max_workers"] == data["max_workers"]
        assert "RAY_AUTH_MODE=token" in data["head_start_ray_commands"][1]
        assert "RAY_AUTH_TOKEN=" not in files[name]
        wrong = data | {"max_worker": 3}
        with pytest.raises(Exception, match="max_worker"):
            validate_config(prepare_config(wrong))


def test_launch_files_follow_their_where_file() -> None:
    on_machines, in_cloud = (load_where(ROOT / f"configs/where/{name}.yaml") for name in ("machines", "aws"))
    assert ".cleave.env" not in str(machines(on_machines)), "no secrets, no file of them"
    assert ". ~/.cleave.env" in aws(in_cloud)["head_start_ray_commands"][1]
    kinds = aws(in_cloud)["available_node_types"]
    assert kinds["cpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert kinds["gpu"]["resources"]["GPU"] == 1


def test_images_hold_the_packages_of_the_tree_and_nothing_private() -> None:
    for kind in ("cpu", "cuda"):
        text = dockerfile(kind)
        copied = [line.split()[-1] for line in text.splitlines() if line.startswith("COPY --chown")]
        assert tuple(copied) == FOLDERS
        assert all((ROOT / folder).is_dir() for folder in FOLDERS)
        assert "USER 1000" in text
        assert "pip install cleave" not in text
    assert "whl/cpu" in dockerfile("cpu")
    assert "NVIDIA_DRIVER_CAPABILITIES" in dockerfile("cuda")


def test_a_volume_needs_a_folder_above_storage_path(where: WhereConfig) -> None:
    data = where.model_dump(exclude_unset=True)
    with pytest.raises(ConfigError, match="mounted above storage_path"):
        ray_cluster(validate(WhereConfig, data | {"storage_path": "s3://bucket/x"}, "a test"))
    data["fleet"]["kubernetes"]["volume_claim"] = None
    on_s3 = ray_cluster(validate(WhereConfig, data | {"storage_path": "s3://bucket/x"}, "a test"))
    check(on_s3)
    assert "volumes" not in str(on_s3)
    with pytest.raises(ConfigError, match="no section `fleet`"):
        ray_cluster(WhereConfig())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cleave(["render", "--out", str(tmp_path)]) == 0
    assert cleave(["render", "--out", str(tmp_path), "--check"]) == 0
    (tmp_path / "aws.yaml").write_text("cluster_name: other\n")
    assert cleave(["render", "--out", str(tmp_path), "--check"]) == 1
    assert "aws.yaml is not what `cleave render` writes" in capsys.readouterr().err
    assert cleave(["render", "--", "evaluate", "configs/evaluate/smoke.yaml", "name=mine"]) == 0
    data = yaml.safe_load(capsys.readouterr().out)
    check(data)
    assert data["metadata"]["name"] == "cleave-evaluate-mine"
    assert cleave(["render", "--", "serve", "configs/serve/guarded.yaml"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["kind"] == "RayService"
    assert cleave(["render", "--", "tasks", "list"]) == 2
    assert "nothing to render" in capsys.readouterr().err
