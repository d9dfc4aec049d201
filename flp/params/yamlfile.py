"""Reading YAML that people write: safe, strict about repeated keys, each mistake reported in one line.

Values are read as PyYAML, and so Snakemake, reads them (YAML 1.1: `yes` is true, `010` is 8), with anchors, aliases and
merge keys. What PyYAML accepts silently or executes is refused: a key given twice, a key that is not a plain name, tags
of Python objects, a mapping inside itself. DVC reads YAML 1.2, where `yes` is a string and `010` is ten; it only
compares parameters, and the stages use the values read here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from flp.system.errors import FLPError, explained

_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """A safe YAML loader that refuses a key given twice (PyYAML silently takes the last)."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise yaml.constructor.ConstructorError(None, None, "half a character (a surrogate)", node.start_mark)
        return value


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    """A mapping's keys, each given once, overriding those from its merge keys (`<<: *anchor`)."""
    merged: dict[Any, Any] = {}
    given: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        if key_node.tag == _MERGE:
            merged |= _merged(loader, value_node)
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, (str, int, float, bool)) and key is not None:
            raise _refusal(node, "a key must be a plain name", key_node)
        if key in given:
            raise _refusal(node, f"key {key!r} is given twice", key_node)
        given[key] = loader.construct_object(value_node, deep=True)
    return merged | given


def _merged(loader: yaml.SafeLoader, node: yaml.Node) -> dict[Any, Any]:
    """The entries from a merge key: a mapping, or several, of which the first that has a key wins."""
    merged: dict[Any, Any] = {}
    for part in reversed(node.value) if isinstance(node, yaml.SequenceNode) else [node]:
        mapping = loader.construct_object(part, deep=True)
        if not isinstance(mapping, dict):
            raise _refusal(node, "<< takes a mapping, or a list of them", part)
        merged |= mapping
    return merged


def _refusal(where: yaml.Node, problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError("while reading a mapping", where.start_mark, problem, node.start_mark)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML file, or a JSON file by its suffix `.json`, that holds one mapping.

    As YAML 1.1, JSON's `1e-05` would be a text and its `"\\ud83d\\ude80"` two halves of a character.

    Raises:
        FLPError: missing, not UTF-8, not YAML (or JSON), too large, a key given twice, or no mapping.
    """
    try:
        text = Path(path).read_bytes()
        if len(text) > 1_000_000:
            raise FLPError(f"{path}: {len(text)} bytes are too many for a parameter file")
    except OSError as error:
        raise FLPError(f"cannot read {path}: {explained(error)}") from error
    values = _json(text, str(path)) if Path(path).suffix == ".json" else _loaded(text, str(path))
    if not isinstance(values, dict):
        raise FLPError(f"{path} must hold a mapping of sections (datasets, seeds, download, …)")
    return values


def read_given(texts: Iterable[str]) -> dict[str, Any]:
    """What a command line gives as `KEY=VALUE`, such as `offline={alpha: 0.3}`: values are YAML, as Snakemake's.

    Raises:
        FLPError: no `=`, a value that is not YAML, or a key given twice.
    """
    given: dict[str, Any] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise FLPError(f"--config {text}: takes KEY=VALUE, such as --config 'offline={{alpha: 0.3}}'")
        if key in given:
            raise FLPError(f"--config: key {key!r} is given twice; write one: --config '{key}={{…}}'")
        given[key] = _loaded(value.encode(errors="surrogateescape"), f"--config {text}:")
    return given


def _loaded(text: bytes, name: str) -> Any:
    try:
        return yaml.load(text.decode(), _Loader)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, LookupError, AttributeError) as error:
        # PyYAML's own constructors stumble over tags such as `!!int ""` or `!!timestamp x`.
        raise FLPError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error


def _json(text: bytes, name: str) -> Any:
    try:
        return json.loads(text.decode(), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise FLPError(f"{name} is not valid JSON: {error}") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {repeated!r} is given twice")
    return values


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings by their paths: `{offline: {alpha: 1}}` → `{offline.alpha: 1}`; an empty one stays."""
    paths: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        paths |= flat(value, f"{path}.") if isinstance(value, Mapping) and value else {path: value}
    return paths
