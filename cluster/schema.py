"""The fields of KubeRay 1.7 and of the Prometheus operator that are rendered, with their types: an unknown or mistyped one is refused.

Written by hand after the API reference of KubeRay (docs.ray.io, ray.io/v1), for the fields in use; it is not the operator's own schema,
which also knows the fields of pods. Left out: pod templates (tests hold them against Kubernetes' own schema) and what is inside strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cleave.errors import ConfigError

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
YES: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number", "minimum": 0}
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
NAME: Schema = {"type": "string", "pattern": r"^[a-z]([-a-z0-9]{0,48}[a-z0-9])?$"}


def fields(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object with these fields and no others."""
    known = {**required, **(optional or {})}
    return {"type": "object", "properties": known, "required": list(required), "additionalProperties": False}


def any_of(*values: str) -> Schema:
    """One of these words."""
    return {"enum": list(values)}


TEMPLATE = fields(
    {"spec": {"type": "object", "required": ["containers"]}}, {"metadata": fields({}, {"labels": LABELS, "annotations": LABELS})}
)
HEAD = fields({"template": TEMPLATE, "rayStartParams": LABELS}, {"serviceType": TEXT})
GROUP = fields(
    {"groupName": NAME, "replicas": COUNT, "minReplicas": COUNT, "maxReplicas": COUNT, "rayStartParams": LABELS, "template": TEMPLATE},
    {"numOfHosts": COUNT, "idleTimeoutSeconds": COUNT, "suspend": YES},
)
AUTH = fields({"mode": any_of("token", "disabled")}, {"secretName": NAME, "enableK8sTokenAuth": YES})
AUTOSCALER = fields(
    {}, {"version": any_of("v1", "v2"), "idleTimeoutSeconds": COUNT, "upscalingMode": any_of("Default", "Aggressive", "Conservative")}
)
CLUSTER = fields(
    {"rayVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"}, "headGroupSpec": HEAD},
    {
        "workerGroupSpecs": {"type": "array", "items": GROUP},
        "authOptions": AUTH,
        "enableInTreeAutoscaling": YES,
        "autoscalerOptions": AUTOSCALER,
        "suspend": YES,
    },
)
JOB = fields(
    {"entrypoint": TEXT, "rayClusterSpec": CLUSTER},
    {
        "submissionMode": any_of("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"),
        "runtimeEnvYAML": TEXT,
        "metadata": LABELS,
        "submitterPodTemplate": TEMPLATE,
        "shutdownAfterJobFinishes": YES,
        "ttlSecondsAfterFinished": COUNT,
        "activeDeadlineSeconds": COUNT,
        "preRunningDeadlineSeconds": COUNT,
        "backoffLimit": COUNT,
        "entrypointNumCpus": NUMBER,
        "entrypointNumGpus": NUMBER,
    },
)
PERCENT: Schema = {"type": "integer", "minimum": 0, "maximum": 100}
UPGRADE = fields(
    {"type": any_of("NewCluster", "None", "NewClusterWithIncrementalUpgrade")},
    {
        "clusterUpgradeOptions": fields(
            {"gatewayClassName": TEXT, "stepSizePercent": PERCENT, "intervalSeconds": COUNT}, {"maxSurgePercent": PERCENT}
        )
    },
)
SERVICE = fields({"serveConfigV2": TEXT, "rayClusterConfig": CLUSTER}, {"upgradeStrategy": UPGRADE, "excludeHeadPodFromServeSvc": YES})
RELABELING = fields({"action": TEXT, "sourceLabels": {"type": "array", "items": TEXT}, "targetLabel": TEXT})
MONITOR = fields(
    {
        "selector": fields({"matchLabels": LABELS}),
        "podMetricsEndpoints": {
            "type": "array",
            "minItems": 1,
            "items": fields({"port": TEXT}, {"interval": TEXT, "relabelings": {"type": "array", "items": RELABELING}}),
        },
    },
    {"namespaceSelector": {"type": "object"}, "jobLabel": TEXT},
)
SPECS: dict[str, tuple[str, Schema]] = {
    "RayCluster": ("ray.io/v1", CLUSTER),
    "RayJob": ("ray.io/v1", JOB),
    "RayService": ("ray.io/v1", SERVICE),
    "PodMonitor": ("monitoring.coreos.com/v1", MONITOR),
}


def check(manifest: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first field that does not fit; kinds of Kubernetes itself are let through."""
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped, unused-ignore]

    kind = manifest["kind"]
    if kind not in SPECS:
        return
    version, spec = SPECS[kind]
    metadata = fields({"name": NAME, "namespace": NAME}, {"labels": LABELS, "annotations": LABELS})
    whole = fields({"apiVersion": {"const": version}, "kind": {"const": kind}, "metadata": metadata, "spec": spec})
    mistakes = sorted(Draft202012Validator(whole).iter_errors(manifest), key=lambda mistake: list(map(str, mistake.path)))
    if mistakes:
        place = ".".join(str(part) for part in mistakes[0].absolute_path) or kind
        raise ConfigError(f"{kind}: {place}: {mistakes[0].message[:200]}; correct the where file.")
    _check_autoscaling(kind, manifest["spec"])


def _check_autoscaling(kind: str, spec: Mapping[str, Any]) -> None:
    """KubeRay shifts traffic step by step only where the cluster scales by itself."""
    step_by_step = spec.get("upgradeStrategy", {}).get("type") == "NewClusterWithIncrementalUpgrade"
    if step_by_step and not spec["rayClusterConfig"].get("enableInTreeAutoscaling"):
        raise ConfigError(f"{kind}: an incremental upgrade needs enableInTreeAutoscaling; let a group of the fleet scale.")
