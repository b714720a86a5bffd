"""`cleave render`: the files under cluster/ that are not Python, written from the same configs as the commands read.

    cleave render                                                          # all of them again, from configs/where/
    cleave render --check                                                  # are those on disk what would be written?
    cleave render --where where.yaml -- evaluate configs/evaluate/demo.yaml       # one RayJob, on stdout

Left out: applying them (`kubectl apply -f`, `ray up`), Secrets, and building images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cleave.config.programs import Command, command_of
from cleave.config.serve import ServeConfig, load_serve
from cleave.config.where import WhereConfig, load_where
from cleave.console import say, say_error
from cleave.errors import ConfigError, StorageError
from cluster.dockerfile import dockerfile
from cluster.kubernetes import network_policy, pod_monitor, ray_cluster, ray_job, ray_service
from cluster.ray_up import aws, machines
from cluster.schema import check

TREE = Path(__file__).resolve().parent.parent
JOBS = {
    "rayjob-distil.yaml": Command("distill", "configs/distill/student.yaml", ("backend=ray", "num_workers=2")),
    "rayjob-tune.yaml": Command("tune curriculum", "configs/tune/curriculum.yaml", ("max_concurrent_trials=4",)),
    "rayjob-evaluate.yaml": Command("evaluate", "configs/evaluate/demo.yaml", ("roles.solver.resources.num_replicas=4",)),
}
SERVICE = "configs/serve/guarded.yaml"
SECRETS = """#   kubectl -n {namespace} create secret generic {token} --from-literal=auth_token="$(openssl rand -hex 32)"
#   kubectl -n {namespace} create secret generic {secret} --from-env-file=secrets.env    # lines NAME=value for {names}
"""


class Dumper(yaml.SafeDumper):
    """Text of several lines is written as such; nothing is abbreviated by anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Dumper.add_representer(str, _text)


def main(where: Path | None, command: Sequence[str], out: Path, *, only_check: bool = False) -> int:
    """Write all files under `out`, or compare them (1: some differ), or, with a command, print its manifest. Raises ConfigError."""
    if command:
        print(render_command(load_where(where or TREE / "configs/where/kubernetes.yaml"), command), end="")
        return 0
    files = shipped(where)
    if only_check:
        return compare(files, out)
    for name, text in files.items():
        write(out / name, text)
    say(f"wrote {len(files)} files under {out}")
    return 0


def shipped(where: Path | None = None) -> dict[str, str]:
    """Every rendered file by its path under cluster/. `where` stands for all places; None: each file's own under configs/where/."""
    places = {name: f"configs/where/{name}.yaml" for name in ("kubernetes", "machines", "aws")}
    read = {name: load_where(where or TREE / path) for name, path in places.items()}
    sources = {name: str(where) if where else path for name, path in places.items()}
    on_kubernetes = read["kubernetes"]
    service = load_serve(TREE / SERVICE)
    manifests = {
        "raycluster.yaml": (ray_cluster(on_kubernetes), sources["kubernetes"]),
        **{name: (ray_job(on_kubernetes, job), f"{sources['kubernetes']} and {job.path}") for name, job in JOBS.items()},
        "rayservice.yaml": (ray_service(on_kubernetes, service), f"{sources['kubernetes']} and {SERVICE}"),
        "podmonitor.yaml": (pod_monitor(on_kubernetes), sources["kubernetes"]),
        "networkpolicy.yaml": (network_policy(on_kubernetes), sources["kubernetes"]),
    }
    files = {f"kubernetes/{name}": document(made, source, on_kubernetes) for name, (made, source) in manifests.items()}
    files["machines.yaml"] = _header(
        sources["machines"], "ray up cluster/machines.yaml   # in the root of the tree, which is copied"
    ) + dump(machines(read["machines"]))
    files["aws.yaml"] = _header(sources["aws"], "ray up cluster/aws.yaml") + dump(aws(read["aws"]))
    files["Dockerfile"] = _header("cluster/dockerfile.py") + dockerfile("cpu")
    files["Dockerfile.cuda"] = _header("cluster/dockerfile.py") + dockerfile("cuda")
    return files


def render_command(where: WhereConfig, words: Sequence[str]) -> str:
    """The RayJob of a command, or the RayService of `serve CONFIG`. Raises ConfigError."""
    words = [word for word in words if word not in ("--", "cleave")]
    command = command_of(words)
    if command is None:
        raise ConfigError(f"`{' '.join(words)}` reads no config, so there is nothing to render; name one, such as evaluate CONFIG.")
    if command.program != "serve":
        return document(ray_job(where, command), command.path, where)
    config = command.config()
    if not isinstance(config, ServeConfig):
        raise ConfigError(f"{command.path} is a Ray Serve config file; paste it under serveConfigV2, or name a config of `cleave serve`.")
    return document(ray_service(where, config), command.path, where)


def document(manifest: Mapping[str, Any], source: str, where: WhereConfig) -> str:
    """A manifest as a file, checked, with what has to be there before it is applied."""
    check(manifest)
    assert where.fleet is not None
    kubernetes = where.fleet.kubernetes
    secrets = SECRETS.format(
        namespace=kubernetes.namespace,
        token=kubernetes.token_secret,
        secret=kubernetes.secret,
        names=", ".join(where.secrets) or "none",
    )
    needs = secrets if str(manifest["kind"]).startswith("Ray") else ""
    return f"{_header(source)}{needs}{dump(manifest)}"


def dump(data: Mapping[str, Any]) -> str:
    """YAML in the order in which it was made."""
    return yaml.dump(dict(data), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=140)


def compare(files: Mapping[str, str], out: Path) -> int:
    """Say which files differ from what would be written; 1 if any does."""
    different = [name for name, text in files.items() if not (out / name).is_file() or (out / name).read_text("utf-8") != text]
    for name in different:
        say_error(f"{out / name} is not what `cleave render` writes; run it again.")
    return 1 if different else 0


def write(path: Path, text: str) -> None:
    """Write one file. Raises StorageError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {path} ({error.strerror or error}); choose another folder with --out.") from error


def _header(source: str, use: str | None = None) -> str:
    return f"# Written by `cleave render` from {source}: change that and render again.\n" + (f"#   {use}\n" if use else "")
