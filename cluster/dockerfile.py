"""The image of a cluster's nodes: Python, the pinned packages, the tree at /opt/cleave. One for CPUs, one for NVIDIA GPUs.

The GPU image differs in its build of torch alone, which brings CUDA along; the node brings the driver. Left out: building it, which
takes a registry and minutes, so that no test does.
"""

from __future__ import annotations

from cluster.kubernetes import TREE
from cluster.pods import USER

PYTHON = "3.11"
FOLDERS = ("actors", "cleave", "cluster", "configs", "pipelines", "reference", "serve", "tune")
INDEX = {"cpu": "https://download.pytorch.org/whl/cpu", "cuda": "https://download.pytorch.org/whl/cu128"}
REQUIREMENTS = "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\\n')"
# KubeRay's probes call wget, `ray up` copies with rsync.
PACKAGES = "ca-certificates procps rsync wget"


def dockerfile(kind: str) -> str:
    """The Dockerfile for `cpu` or `cuda`, to be built in the root of the repository."""
    name = "cluster/Dockerfile" if kind == "cpu" else "cluster/Dockerfile.cuda"
    gpus = "" if kind == "cpu" else "ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility\n"
    copies = "\n".join(f"COPY --chown={USER}:{USER} {folder} {folder}" for folder in FOLDERS)
    return f"""#   docker build -f {name} -t registry.example/cleave:0.1.0 .
FROM python:{PYTHON}-slim

RUN apt-get update \\
    && apt-get install -y --no-install-recommends {PACKAGES} \\
    && rm -rf /var/lib/apt/lists/* \\
    && useradd --uid {USER} --create-home cleave

WORKDIR {TREE}
COPY pyproject.toml constraints.txt README.md LICENSE ./
# The pinned packages first, in a layer that survives changes of the tree; torch by its pin, from the index that has this build.
# The tree itself is not installed: it is found by PYTHONPATH, like the tree that a job brings along.
RUN pip install --no-cache-dir --index-url {INDEX[kind]} "$(grep '^torch==' constraints.txt)" \\
    && python -c "{REQUIREMENTS}" > /tmp/requirements.txt \\
    && pip install --no-cache-dir -c constraints.txt -r /tmp/requirements.txt \\
    && chown -R {USER}:{USER} {TREE}

{copies}

{gpus}ENV PYTHONPATH={TREE} RAY_TRAIN_ENABLE_STATE_TRACKING=1 TOKENIZERS_PARALLELISM=false
USER {USER}
CMD ["python", "-m", "cleave", "--help"]
"""
