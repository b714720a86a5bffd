"""What a pruned checkpoint's card says of what was removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_METHODS = {
    "consensus": "Gates were trained with the model, came to a consensus, and were cut out with what they close",
    "magnitude": "The units with the smallest group norms were cut before training",
    "random": "Units drawn at random were cut before training",
    "layers": "The deepest layers but the last were cut before training",
}
_ROWS = {
    "parameters": "parameters",
    "flops": "FLOPs of a token after 256",
    "bytes": "bytes",
    "seconds_1": "seconds, one reply",
    "seconds_32": "seconds, 32 replies at once",
    "tokens_per_second_32": "tokens per second, 32 replies at once",
}


def sentence(details: Mapping[str, Any]) -> str:
    """One line for people."""
    kept = ", ".join(details["kept"].values())
    return f"{kept} kept; {_share(details, 'parameters')} of the parameters, {_share(details, 'flops')} of the FLOPs"


def pruned_section(details: Mapping[str, Any]) -> str:
    """Markdown. `details` are those of pruned.json."""
    dense, sliced = details["dense"], details["sliced"]
    rows = [
        f"| {title} | {_figure(dense[name])} | {_figure(sliced[name])} | {_share(details, name)} |"
        for name, title in _ROWS.items()
        if name in dense
    ]
    table = "\n".join(rows)
    layers = "\n".join(f"| {kind} | {' '.join(f'{100 * share:.0f}' for share in shares)} |" for kind, shares in details["closed"].items())
    return f"""## Pruned

{_METHODS[details["method"]]} ({details["layout"]} layout).
{", ".join(details["kept"].values())} stay; {100 * details["removed"]:.1f} % of the gated parameters are gone.
{_written(details)}

| | dense | pruned | ratio |
|---|---|---|---|
{table}

| closed, % by layer | |
|---|---|
{layers}

{_frozen(details)}

"""


def _written(details: Mapping[str, Any]) -> str:
    if details["model_type"] == details["was"]:
        return "Transformers loads it without Cleave and without remote code."
    return f"Its head count does not divide its width, so it is written as `{details['model_type']}`, which computes the same."


def _frozen(details: Mapping[str, Any]) -> str:
    if "agreement" not in details:
        return ""
    agreement = ", ".join(f"{kind} {100 * value:.1f} %" for kind, value in details["agreement"].items())
    said = f"Before freezing, gates agreed with the consensus for: {agreement} of (input, gate)."
    if "freezing" not in details:
        return said
    frozen = details["freezing"]
    loss = f"{frozen['loss_before']:.4g} to {frozen['loss_after']:.4g}"
    return f"{said} Freezing changed the held-out loss from {loss}; {100 * frozen['same']:.1f} % of greedy outputs stayed the same."


def _share(details: Mapping[str, Any], name: str) -> str:
    return f"{details['sliced'][name] / details['dense'][name]:.2f}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
