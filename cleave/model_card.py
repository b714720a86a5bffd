"""The README.md of a trained checkpoint: YAML front matter for the Hub, what it was trained on, how to use it, its limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from cleave.config.base import dump
from cleave.config.distill import DistillConfig

_DOES = {
    "decomposer": "splits a problem into numbered sub-questions",
    "solver": "answers a problem, with or without a plan of sub-questions",
    "verifier": "says whether a solution of a problem is right",
    "general": "has read problems, plans and solutions of all kinds, as a start for students",
}
_LEARNED = {"gold": "gold examples", "collection": "collected traces"}


def model_card(config: DistillConfig, result: Mapping[str, Any], parameters: int, pruned: str = "") -> str:
    """Markdown. `result` holds the figures of the run, such as tokens and the best held-out metric; `pruned` is the section of what was
    removed, with its last line empty."""
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "apache-2.0",
        "tags": ["cleave", config.role],
    }
    base = config.init.model
    if base is not None and base.backend == "hf":
        front["base_model"] = base.model_name_or_path
    tasks = ", ".join(mix.title for mix in config.tasks)
    start = f"`{base.short}`" if base is not None else "random weights"
    figures = "\n".join(
        f"| {name} | {_figure(value)} |" for name, value in result.items() if name not in ("checkpoint", "name", "role", "calibration")
    )
    return f"""---
{yaml.safe_dump(front, sort_keys=False).strip()}
---
# {config.name}

A {config.role} with {parameters:,} parameters that {_DOES[config.role]}. Trained by `cleave distill` on {_LEARNED[config.source]} of
{tasks}, starting from {start}, with the prompts `{config.prompts}`.

| | |
|---|---|
{figures}

Held-out figures are of examples in the formats it was trained on; accuracy of a whole pipeline is measured by `cleave evaluate`.

{pruned}## Use

    cleave ask --help
    python -c "from transformers import AutoModelForCausalLM as M; M.from_pretrained('PATH')"

In a config: `model: hf:PATH`.

## Limits

It knows the tasks, formats and vocabulary above and nothing else; text of another kind gives replies without meaning.

## Config

```yaml
{dump(config).strip()}
```
"""


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
