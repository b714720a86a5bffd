"""Manifests for KubeRay, made of the same configs as the commands: RayCluster, RayJob, RayService, PodMonitor, NetworkPolicy.

Secrets are named, never written. A job's cluster gets as many nodes as its config needs to start, so that nothing waits for nodes
that cannot come; a config whose bundles fit no group is refused. Left out: the KubeRay operator, Secrets and volumes themselves.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from cleave.config.fleet import FleetConfig, GroupConfig
from cleave.config.programs import Command
from cleave.config.serve import ServeArgs, ServeConfig
from cleave.config.where import WhereConfig
from cleave.demands import Demand, amounts, demands_of, shortages
from cleave.errors import ConfigError
from cleave.requirements import ray_release
from cluster.pods import CLIENT, ON_WORKERS, PORTS, Manifest, fleet_of, labels_of, pod_template, resources_of, submitter_template

HERE = Path(__file__).resolve().parent.parent
TREE = "/opt/cleave"
"""Where the image has the tree."""
GATEWAYS: Manifest = {
    "namespaceSelector": {},
    "podSelector": {"matchExpressions": [{"key": "gateway.networking.k8s.io/gateway-name", "operator": "Exists"}]},
}
START_WITHIN_S = 1800
KEEP_S = 3600
RETRIES = 2
TIMEOUT_MARGIN_S = 10
UNITS = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def ray_cluster(where: WhereConfig) -> Manifest:
    """A cluster that stays, for `cleave submit`."""
    fleet = fleet_of(where)
    return _manifest("ray.io/v1", "RayCluster", fleet.name, fleet, cluster_spec(where))


def ray_job(where: WhereConfig, command: Command) -> Manifest:
    """One command on a cluster of its own that ends with it; what a retry finds finished is not done again.

    Raises ConfigError where no number of nodes within the groups' limits can hold the config.
    """
    fleet = fleet_of(where)
    path = in_tree(command.path)
    config = command._replace(path=str(HERE / path)).config()
    words = [*command.program.split(), f"{TREE}/{path}", *command.overrides]
    if where.storage_path is not None and not any(word.startswith("storage_path=") for word in words):
        words.append(f"storage_path={where.storage_path}")
    spec = {
        "entrypoint": shlex.join([where.python, "-m", "cleave", *words]),
        "submissionMode": "K8sJobMode",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": KEEP_S,
        "preRunningDeadlineSeconds": START_WITHIN_S,
        "backoffLimit": RETRIES,
        **_entrypoint(where),
        "submitterPodTemplate": submitter_template(fleet),
        "rayClusterSpec": cluster_spec(where, grown(fleet.groups, demands_of(config))),
    }
    name = "-".join([fleet.name, command.program.split()[0], getattr(config, "name", "run")]).lower().replace("_", "-").replace(".", "-")
    return _manifest("ray.io/v1", "RayJob", name[:50].rstrip("-"), fleet, spec)


def ray_service(where: WhereConfig, config: ServeConfig) -> Manifest:
    """The composed pipeline behind a service; a new version takes over step by step, on a second cluster (Gateway API).

    Raises ConfigError for an application without API keys, or whose keys are in a variable that `secrets` does not name.
    """
    fleet = fleet_of(where)
    check_keys(where, config)
    spec = {
        "serveConfigV2": _yaml(serve_config(config)),
        "upgradeStrategy": {
            "type": "NewClusterWithIncrementalUpgrade",
            "clusterUpgradeOptions": {
                "gatewayClassName": fleet.kubernetes.gateway_class_name,
                "maxSurgePercent": 50,
                "stepSizePercent": 20,
                "intervalSeconds": 30,
            },
        },
        "excludeHeadPodFromServeSvc": True,
        "rayClusterConfig": cluster_spec(where, grown(fleet.groups, demands_of(config)), autoscale=True),
    }
    return _manifest("ray.io/v1", "RayService", service_name(fleet, config), fleet, spec)


def pod_monitor(where: WhereConfig) -> Manifest:
    """What Prometheus reads: Ray's and Cleave's metrics of every pod."""
    fleet = fleet_of(where)
    spec = {
        "selector": {"matchLabels": labels_of(fleet)},
        "podMetricsEndpoints": [
            {
                "port": name,
                "relabelings": [
                    {"action": "replace", "sourceLabels": ["__meta_kubernetes_pod_label_ray_io_cluster"], "targetLabel": "ray_io_cluster"}
                ],
            }
            for name in PORTS
            if name.endswith("metrics")
        ],
    }
    return _manifest("monitoring.coreos.com/v1", "PodMonitor", fleet.name, fleet, spec)


def network_policy(where: WhereConfig) -> Manifest:
    """Who may reach the pods: each other, the operator, Prometheus, and pods that carry the label cleave-client: "true"."""
    fleet = fleet_of(where)
    own = {"podSelector": {"matchLabels": labels_of(fleet)}}
    from_outside = _ports("dashboard", "serve")
    spec = {
        "podSelector": {"matchLabels": labels_of(fleet)},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [own]},
            {"from": [_namespace(fleet.kubernetes.operator_namespace)], "ports": from_outside},
            {"from": [{"podSelector": {"matchLabels": CLIENT}}], "ports": from_outside},
            {"from": [GATEWAYS], "ports": _ports("serve")},
            {"from": [_namespace(fleet.kubernetes.monitoring_namespace)], "ports": _ports("metrics", "as-metrics", "dash-metrics")},
        ],
    }
    return _manifest("networking.k8s.io/v1", "NetworkPolicy", fleet.name, fleet, spec)


def cluster_spec(where: WhereConfig, groups: Sequence[GroupConfig] | None = None, *, autoscale: bool = False) -> Manifest:
    """The spec of a RayCluster: a head that hosts no models, and the groups."""
    fleet = fleet_of(where)
    groups = fleet.groups if groups is None else groups
    spec: Manifest = {
        "rayVersion": ray_release(),
        "authOptions": {"mode": "token", "secretName": fleet.kubernetes.token_secret},
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0", "metrics-export-port": str(PORTS["metrics"])},
            "template": pod_template(where, "ray-head", resources_of(fleet.head_cpus, fleet.head_memory), tuple(PORTS), {}),
        },
        "workerGroupSpecs": [_group(where, group) for group in groups],
    }
    if autoscale or fleet.scales:
        spec["enableInTreeAutoscaling"] = True
        spec["autoscalerOptions"] = {"version": "v2", "idleTimeoutSeconds": fleet.idle_timeout_s}
    return spec


def serve_config(config: ServeConfig) -> Manifest:
    """The config file of Ray Serve for our application."""
    own = set(ServeConfig.model_fields) - set(ServeArgs.model_fields)
    return {
        "proxy_location": "EveryNode",
        "http_options": {
            "host": "0.0.0.0",
            "port": PORTS["serve"],
            "request_timeout_s": config.limits.request_timeout_s + TIMEOUT_MARGIN_S,
        },
        "logging_config": {"encoding": "JSON"},
        "applications": [
            {
                "name": config.application,
                "route_prefix": config.route_prefix,
                "import_path": "serve.app:build",
                "args": config.model_dump(mode="json", exclude_unset=True, exclude=own),
            }
        ],
    }


def grown(groups: Sequence[GroupConfig], demands: Mapping[str, Sequence[Demand]]) -> list[GroupConfig]:
    """The groups with as many nodes at the start as every run of a config needs. Raises ConfigError where their limits are too low."""
    wanted = list(groups)
    while short := shortages(demands, [node for group in wanted for node in nodes_of(group)]):
        demand = short[0].demand
        able = [i for i, group in enumerate(wanted) if group.replicas < group.most and _holds(group, demand)]
        if not able:
            raise ConfigError(
                f"{short[0].run} needs {demand}, and {short[0].placed} fit on the fleet at its largest; raise max_replicas or the "
                f"size of a group's nodes, or lower {demand.field} ({amounts(demand.each)})."
            )
        smallest = min(able, key=lambda i: (wanted[i].gpus, wanted[i].cpus))
        wanted[smallest] = wanted[smallest].model_copy(update={"replicas": wanted[smallest].replicas + 1})
    return wanted


def nodes_of(group: GroupConfig) -> list[dict[str, float]]:
    """The resources of a group's nodes at the start, as Ray counts them."""
    node = {"CPU": float(group.cpus), "GPU": float(group.gpus), "memory": float(group.memory[:-2]) * UNITS[group.memory[-2:]]}
    return [node] * group.replicas


def check_keys(where: WhereConfig, config: ServeConfig) -> None:
    """A service is reached by others, so it has keys, and its pods get them. Raises ConfigError."""
    if not config.keys.required:
        raise ConfigError(
            "a service is reached by others, so keys are needed; set keys.env=CLEAVE_API_KEYS, see configs/serve/guarded.yaml."
        )
    if config.keys.env is not None and config.keys.env not in where.secrets:
        raise ConfigError(f"the API keys are in {config.keys.env}, which the pods do not get; add it to `secrets` of the where file.")


def service_name(fleet: FleetConfig, config: ServeConfig) -> str:
    """The name of a service: the fleet's, with the application's where that is another."""
    return fleet.name if config.application == fleet.name else f"{fleet.name}-{config.application}"[:50]


def in_tree(path: str) -> str:
    """A config's path from the root of the tree. Raises ConfigError for one outside, which the image does not have."""
    full = (Path(path) if Path(path).exists() else HERE / path).resolve()
    if not full.is_relative_to(HERE):
        raise ConfigError(f"{path} lies outside the tree, so the image does not have it; put it under configs/ and build the image again.")
    return full.relative_to(HERE).as_posix()


def _holds(group: GroupConfig, demand: Demand) -> bool:
    (node,) = nodes_of(group.model_copy(update={"replicas": 1}))
    return not shortages({"": [Demand("", 1, demand.each, "")]}, [node])


def _group(where: WhereConfig, group: GroupConfig) -> Manifest:
    pod = pod_template(where, "ray-worker", resources_of(group.cpus, group.memory, group.gpus), ON_WORKERS, group.node_selector)
    return {
        "groupName": group.name,
        "replicas": group.replicas,
        "minReplicas": group.fewest,
        "maxReplicas": group.most,
        "rayStartParams": {"metrics-export-port": str(PORTS["metrics"])},
        "template": pod,
    }


def _entrypoint(where: WhereConfig) -> Manifest:
    spec: Manifest = {}
    if where.pip:
        spec["runtimeEnvYAML"] = _yaml({"pip": list(where.pip)})
    if where.entrypoint_num_cpus:
        spec["entrypointNumCpus"] = where.entrypoint_num_cpus
    if where.entrypoint_num_gpus:
        spec["entrypointNumGpus"] = where.entrypoint_num_gpus
    if where.metadata:
        spec["metadata"] = dict(where.metadata)
    return spec


def _ports(*names: str) -> list[Manifest]:
    return [{"protocol": "TCP", "port": PORTS[name]} for name in names]


def _namespace(name: str) -> Manifest:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _manifest(api: str, kind: str, name: str, fleet: FleetConfig, spec: Manifest) -> Manifest:
    metadata = {"name": name, "namespace": fleet.kubernetes.namespace, "labels": labels_of(fleet)}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec}


def _yaml(data: Manifest) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
