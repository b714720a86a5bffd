"""The nodes of a cluster and what they stand on: Kubernetes (KubeRay), plain machines, or a cloud (`ray up`)."""

import re
from typing import Self

from pydantic import Field, field_validator, model_validator

from cleave.config.base import Config

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?")
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(Mi|Gi|Ti)")


def _label(name: str) -> str:
    if not LABEL.fullmatch(name):
        raise ValueError(f"{name!r} is no name in Kubernetes; use up to 50 small letters, digits and dashes")
    return name


class GroupConfig(Config):
    """Nodes of one kind."""

    name: str
    """Name of the group."""
    replicas: int = Field(1, ge=0)
    """Nodes at the start."""
    min_replicas: int | None = Field(None, ge=0)
    """Fewest nodes; null: replicas."""
    max_replicas: int | None = Field(None, ge=0)
    """Most nodes; null: replicas, so that nothing scales."""
    cpus: int = Field(4, ge=1)
    """CPUs of a node."""
    memory: str = "8Gi"
    """Memory of a node, such as 16Gi."""
    gpus: int = Field(0, ge=0)
    """GPUs of a node."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the Kubernetes nodes that may host it."""
    instance_type: str = "m7i.xlarge"
    """Kind of machine in the cloud."""
    spot: bool = False
    """Machines that the cloud may take away; what they did is done again."""

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        return _label(name)

    @field_validator("memory")
    @classmethod
    def _quantity(cls, memory: str) -> str:
        if not QUANTITY.fullmatch(memory):
            raise ValueError(f"{memory!r} is no amount of memory; write a number with Mi, Gi or Ti, such as 16Gi")
        return memory

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.fewest <= self.replicas <= self.most:
            raise ValueError(f"{self.name}: replicas lie between min_replicas and max_replicas")
        return self

    @property
    def fewest(self) -> int:
        """Nodes that stay when there is nothing to do."""
        return self.replicas if self.min_replicas is None else self.min_replicas

    @property
    def most(self) -> int:
        """Nodes when there is much to do."""
        return self.replicas if self.max_replicas is None else self.max_replicas


class KubernetesConfig(Config):
    """How the nodes stand in Kubernetes."""

    namespace: str = "cleave"
    """Namespace of everything."""
    secret: str = "cleave-secrets"
    """Name of the Secret with the variables that `secrets` names; it is made by hand, never rendered."""
    token_secret: str = "cleave-ray-token"
    """Name of the Secret whose key auth_token is the cluster's token; made by hand."""
    volume_claim: str | None = None
    """A PersistentVolumeClaim (ReadWriteMany) that every pod mounts at storage_path; null: storage_path is a URL."""
    gateway_class_name: str = "istio"
    """GatewayClass through which a service is upgraded step by step."""
    monitoring_namespace: str = "monitoring"
    """Namespace whose Prometheus may read the metrics."""
    operator_namespace: str = "kuberay-operator"
    """Namespace of the KubeRay operator."""

    @field_validator("namespace", "secret", "token_secret", "monitoring_namespace", "operator_namespace")
    @classmethod
    def _plain(cls, name: str) -> str:
        return _label(name)


class MachinesConfig(Config):
    """Plain machines that are reached by SSH, with the tree and its environment at the same path on all."""

    head_ip: str = "192.0.2.10"
    """Address of the head."""
    worker_ips: tuple[str, ...] = ("192.0.2.11", "192.0.2.12")
    """Addresses of the others."""
    ssh_user: str = "ubuntu"
    """Who logs in."""
    ssh_private_key: str | None = None
    """Path of the key here; null: the SSH agent's."""


class CloudConfig(Config):
    """Machines of AWS, started and stopped by `ray up`."""

    region: str = "us-west-2"
    """Region."""
    availability_zone: str = "us-west-2a,us-west-2b"
    """Zones that are tried in order."""
    head_instance_type: str = "m7i.large"
    """Machine of the head, which hosts no models."""
    ssh_user: str = "ubuntu"
    """Who logs in."""


class FleetConfig(Config):
    """A cluster of Cleave's own."""

    name: str = "cleave"
    """Name of the cluster."""
    image: str = "registry.example/cleave:latest"
    """Container image of every node, built from cluster/Dockerfile or Dockerfile.cuda."""
    head_memory: str = "8Gi"
    """Memory of the head."""
    head_cpus: int = Field(2, ge=1)
    """CPUs of the head; Ray is told of none, so that only drivers run there."""
    groups: tuple[GroupConfig, ...] = Field(default=(GroupConfig(name="cpu"),), min_length=1)
    """The other nodes."""
    idle_timeout_s: int = Field(300, gt=0)
    """Seconds after which a node without work is given back, where a group may shrink."""
    kubernetes: KubernetesConfig = KubernetesConfig()
    """How it stands in Kubernetes."""
    machines: MachinesConfig = MachinesConfig()
    """How it stands on plain machines."""
    cloud: CloudConfig = CloudConfig()
    """How it stands in the cloud."""

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        return _label(name)

    @model_validator(mode="after")
    def _groups_differ(self) -> Self:
        names = [group.name for group in self.groups]
        if len(set(names)) < len(names) or "head" in names:
            raise ValueError("groups need names of their own, and none is called head")
        return self

    @property
    def scales(self) -> bool:
        """Whether any group may grow or shrink."""
        return any(group.fewest < group.most for group in self.groups)
