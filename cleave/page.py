"""Self-contained pages from the templates beside this file; whatever a model or a user wrote is escaped.

text = page("report.html.j2", name="demo")
"""

from __future__ import annotations

from typing import Any


def page(template: str, **values: Any) -> str:
    """Fill a template in. A name that the template uses and `values` lacks is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    options: Any = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=PackageLoader("cleave", "."), **options)
    environment.filters |= {"percent": percent, "count": count}
    return environment.get_template(template).render(**values)


def percent(value: Any, digits: int = 1, sign: bool = False) -> str:
    """A share as a percentage; a dash where it is unknown."""
    return "–" if value is None else f"{100 * value:{'+' if sign else ''}.{digits}f}"


def count(value: float) -> str:
    """A number with thousands separators."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"
