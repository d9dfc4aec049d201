"""What is wrong with parameters, in one line that names the key as it was written and the nearest valid name."""

from __future__ import annotations

import reprlib
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from flp.params.fields import number
from flp.system.errors import nearest


def first_problem(model: type[BaseModel], error: ValidationError) -> str:
    """The first problem that pydantic found in values for `model`; a misspelt key rather than the one it leaves out."""
    problems = error.errors(include_url=False, include_context=False)
    problem = problems[0]
    if problem["type"] == "missing":
        unknown = (p for p in problems if p["type"] == "extra_forbidden" and p["loc"][:-1] == problem["loc"][:-1])
        problem = next(unknown, problem)
    path = [str(part) for part in problem["loc"]]
    place = ".".join(path) or "the file"
    if problem["type"] == "extra_forbidden" and len(path) == 1 and "." in place:  # DVC's spelling
        return f"{place}: unknown key; write {_nested(place, _shortened(problem['input']))}"
    if problem["type"] == "extra_forbidden":
        return f"{place}: unknown key{nearest(path[-1], _keys_at(model, path[:-1]))}"
    if problem["type"] == "missing":
        return f"{place}: missing; see the default params.yaml for its meaning and a sensible value"
    if problem["type"] == "value_error":
        return f"{place}: {problem['msg'].removeprefix('Value error, ')}"
    value = _shortened(problem["input"])
    message = problem["msg"][0].lower() + problem["msg"][1:]
    hint = nearest(problem["input"], _literals(problem["msg"])) if isinstance(problem["input"], str) else ""
    if problem["type"] in ("int_type", "int_from_float") and isinstance(real := number(problem["input"]), float):
        hint = f"; write {int(real)}" if real.is_integer() and abs(real) < 1e15 else ""
    return f"{place}: {message}, got {value}{hint}"


def _nested(path: str, value: str) -> str:
    """`offline.alpha` and `3` → `offline={alpha: 3}`."""
    section, *names = path.split(".")
    for name in reversed(names):
        value = f"{{{name}: {value}}}"
    return f"{section}={value}"


def _shortened(value: object) -> str:
    """A short representation, however large or deep the value is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    try:
        return short.repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "an integer too large to show"


def _literals(message: str) -> list[str]:
    return message.split("'")[1::2]


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys of the section at a path, which may lead through mappings such as `tasks`; empty if it is no section."""
    place: Any = model
    for part in path:
        if get_origin(place) is dict:
            place = get_args(place)[1]
        elif _is_section(place) and part in place.model_fields:
            place = place.model_fields[part].annotation
        else:
            return []
        place = next(filter(_is_section, get_args(place)), place) if get_origin(place) is not dict else place
    return list(place.model_fields) if _is_section(place) else []


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
