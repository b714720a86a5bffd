"""Cluster files for Ray's own launcher (`ray up FILE`): plain machines that are reached by SSH, and machines of AWS.

On plain machines the tree is copied and `make venv` builds its environment; on AWS the image has both. The token of the cluster and the
file of secrets are taken from this machine's home folder; neither is written into the file. Left out: making images and networks.
"""

from __future__ import annotations

from typing import Any

from cleave.config.fleet import GroupConfig
from cleave.config.where import WhereConfig
from cluster.kubernetes import TREE
from cluster.pods import PORTS, fleet_of

Launch = dict[str, Any]
TOKEN = "~/.ray/auth_token"
SECRETS = "~/.cleave.env"
"""Lines NAME=value on the machine that runs `ray up`; readable by its owner only."""
TREE_AT_HOME = "~/cleave"


def machines(where: WhereConfig) -> Launch:
    """Machines that are there already."""
    fleet = fleet_of(where)
    here = fleet.machines
    auth = {"ssh_user": here.ssh_user, **({"ssh_private_key": here.ssh_private_key} if here.ssh_private_key else {})}
    return {
        "cluster_name": fleet.name,
        "provider": {"type": "local", "head_ip": here.head_ip, "worker_ips": list(here.worker_ips)},
        "auth": auth,
        "min_workers": len(here.worker_ips),
        "max_workers": len(here.worker_ips),
        "idle_timeout_minutes": max(1, fleet.idle_timeout_s // 60),
        "file_mounts": {TREE_AT_HOME: ".", **_private(where)},
        "rsync_exclude": ["**/.git", "**/.venv", "**/runs"],
        "rsync_filter": [".gitignore"],
        "setup_commands": [f"cd {TREE_AT_HOME} && make venv"],
        **_start(where, f"{TREE_AT_HOME}/.venv/bin/ray", f"PATH={TREE_AT_HOME}/.venv/bin:$PATH", head_cpus=None),
    }


def aws(where: WhereConfig) -> Launch:
    """Machines of AWS, started with the head and stopped when idle."""
    fleet = fleet_of(where)
    cloud = fleet.cloud
    head = {"node_config": {"InstanceType": cloud.head_instance_type}, "resources": {"CPU": 0}}
    return {
        "cluster_name": fleet.name,
        "provider": {"type": "aws", "region": cloud.region, "availability_zone": cloud.availability_zone, "cache_stopped_nodes": False},
        "auth": {"ssh_user": cloud.ssh_user},
        "max_workers": sum(group.most for group in fleet.groups),
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": max(1, fleet.idle_timeout_s // 60),
        "docker": {
            "image": fleet.image,
            "container_name": "cleave",
            "pull_before_run": True,
            "run_options": ["--ulimit nofile=65536:65536"],
        },
        "head_node_type": "head",
        "available_node_types": {"head": head, **{group.name: _node_type(group) for group in fleet.groups}},
        "file_mounts": _private(where),
        **_start(where, "ray", f"PYTHONPATH={TREE}", head_cpus=0),
    }


def _node_type(group: GroupConfig) -> Launch:
    spot = {"InstanceMarketOptions": {"MarketType": "spot"}} if group.spot else {}
    resources = {"CPU": group.cpus, **({"GPU": group.gpus} if group.gpus else {})}
    return {
        "node_config": {"InstanceType": group.instance_type, **spot},
        "resources": resources,
        "min_workers": group.fewest,
        "max_workers": group.most,
    }


def _private(where: WhereConfig) -> dict[str, str]:
    return {TOKEN: TOKEN, **({SECRETS: SECRETS} if where.secrets else {})}


def _start(where: WhereConfig, ray: str, path: str, head_cpus: int | None) -> Launch:
    """The commands that start Ray, with the token and the variables of the where file in its environment."""
    plain = "".join(f" {name}={value}" for name, value in where.env.items())
    secrets = f"set -a && . {SECRETS} && set +a && " if where.secrets else ""
    start = f"ulimit -n 65536; {secrets}{path} RAY_AUTH_MODE=token{plain} {ray} start"
    cpus = "" if head_cpus is None else f" --num-cpus={head_cpus}"
    head = f"--head --port={PORTS['gcs-server']} --dashboard-host=0.0.0.0 --metrics-export-port={PORTS['metrics']}{cpus}"
    return {
        "head_start_ray_commands": [f"{ray} stop", f"{start} {head} --autoscaling-config=~/ray_bootstrap_config.yaml"],
        "worker_start_ray_commands": [
            f"{ray} stop",
            f"{start} --address=$RAY_HEAD_IP:{PORTS['gcs-server']} --metrics-export-port={PORTS['metrics']}",
        ],
    }
