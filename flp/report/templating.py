"""Self-contained pages from the templates in `templates/`."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from importlib import resources
from typing import Any

import jinja2

from flp.system.errors import FLPError
from flp.system.units import counted


def render(template: str, helpers: dict[str, Callable[..., str]], **values: Any) -> str:
    """A template filled with values, which are escaped; `helpers` are available as filters and functions.

    The text is the same on every system: lines end with a newline, and blank lines are removed.
    """
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= helpers | {"counted": counted}
    environment.globals |= helpers
    text = environment.get_template(template).render(**values)
    return re.sub(r"\n\s*\n+", "\n", text).rstrip() + "\n"


def _source(name: str) -> str:
    path = resources.files("flp.report").joinpath("templates", name)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FLPError(f"flp's own template {name} is not installed; install flp again") from None


def data_uri(content: bytes, media_type: str) -> str:
    """A file's content as a URI, to be embedded in a page."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
