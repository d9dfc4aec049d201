"""Pages from the templates beside this file."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources
from typing import Any

import jinja2

from flp.system.errors import FLPError


def render(template: str, helpers: dict[str, Callable[..., str]], **values: Any) -> str:
    """A template's text with these values, which are escaped; helpers are its filters and functions.

    Alike on every system: one newline at each line's end, none of the blank lines that templates leave.
    """
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= helpers
    environment.globals |= helpers
    text = environment.get_template(template).render(**values)
    return re.sub(r"\n\s*\n+", "\n", text).rstrip() + "\n"


def _source(name: str) -> str:
    path = resources.files("flp.report").joinpath("templates", name)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FLPError(f"flp's own template {name} is not installed; install flp again") from None
