"""Pods of a cluster: what every one has (labels, ports, limits, the shared volume) and how secrets reach it, which is by name.

Left out: the clusters that are made of them (kubernetes.py).
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from cleave.config.fleet import FleetConfig
from cleave.config.where import WhereConfig
from cleave.errors import ConfigError

Manifest = dict[str, Any]
PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "serve": 8000, "metrics": 8080, "as-metrics": 44217, "dash-metrics": 44227}
ON_WORKERS = ("serve", "metrics")
USER = 1000
SECURITY: Manifest = {"runAsNonRoot": True, "runAsUser": USER, "fsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"}}
CLIENT = {"cleave-client": "true"}
"""The label of pods that may reach the dashboard and the application."""
GRACE_S = 120
"""Seconds that a pod has to write what is finished, or to answer what it was asked."""


def pod_template(where: WhereConfig, name: str, resources: Manifest, ports: Sequence[str], selector: Mapping[str, str]) -> Manifest:
    """A pod of Ray with one container; `selector` says which Kubernetes nodes may host it. Raises ConfigError (volume)."""
    fleet = fleet_of(where)
    container: Manifest = {
        "name": name,
        "image": fleet.image,
        "resources": resources,
        "ports": [{"name": port, "containerPort": PORTS[port]} for port in ports],
        "env": [{"name": key, "value": value} for key, value in where.env.items()]
        + [secret_variable(fleet, name) for name in where.secrets],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec: Manifest = {
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": dict(SECURITY),
        "containers": [container],
    }
    if selector:
        spec["nodeSelector"] = dict(selector)
    if fleet.kubernetes.volume_claim is not None:
        container["volumeMounts"] = [{"name": "shared", "mountPath": mount_path(where)}]
        spec["volumes"] = [{"name": "shared", "persistentVolumeClaim": {"claimName": fleet.kubernetes.volume_claim}}]
    return {"metadata": {"labels": labels_of(fleet)}, "spec": spec}


def submitter_template(fleet: FleetConfig) -> Manifest:
    """The pod that hands the command to the head; KubeRay adds what it runs. Its label opens the dashboard to it."""
    container = {
        "name": "submitter",
        "image": fleet.image,
        "resources": resources_of(1, "1Gi"),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {"restartPolicy": "Never", "securityContext": dict(SECURITY), "containers": [container]}
    return {"metadata": {"labels": CLIENT}, "spec": spec}


def mount_path(where: WhereConfig) -> str:
    """Where the shared volume is seen: the folder above storage_path, so that caches fit beside the runs."""
    path = where.storage_path or ""
    if not path.startswith("/") or posixpath.dirname(path) == "/":
        raise ConfigError(f"a volume is mounted above storage_path, and {path or 'none'} has no folder above it; write /mnt/cleave/runs.")
    return posixpath.dirname(path.rstrip("/"))


def resources_of(cpus: int, memory: str, gpus: int = 0) -> Manifest:
    """Requests and limits, which are the same, so that nothing else takes what Ray counts on."""
    amount = {"cpu": str(cpus), "memory": memory, **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    return {"requests": amount, "limits": dict(amount)}


def secret_variable(fleet: FleetConfig, name: str) -> Manifest:
    """A variable whose value is in the fleet's Secret under the same name."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": fleet.kubernetes.secret, "key": name}}}


def labels_of(fleet: FleetConfig) -> dict[str, str]:
    """What all pods of a fleet carry."""
    return {"app.kubernetes.io/part-of": fleet.name}


def fleet_of(where: WhereConfig) -> FleetConfig:
    """The fleet of a where file. Raises ConfigError where it has none."""
    if where.fleet is None:
        raise ConfigError("the where file has no section `fleet`, so there is nothing to render; see configs/where/kubernetes.yaml.")
    return where.fleet
