"""Reading YAML that people write: safe, strict about repeated keys, every mistake in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from flp.system.errors import FLPError, explained


class _Loader(yaml.SafeLoader):
    """A safe YAML loader that refuses a key given twice (plain YAML keeps the last in silence)."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise yaml.constructor.ConstructorError(None, None, "half a character (a surrogate)", node.start_mark)
        return value


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if not isinstance(key, (str, int, float, bool)) and key is not None:
            raise yaml.constructor.ConstructorError(None, None, "a key must be a plain name", node.start_mark)
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
    return dict(yaml.SafeLoader.construct_mapping(loader, node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML (or JSON) file that holds one mapping.

    Raises:
        FLPError: missing, not UTF-8, not YAML, too large, a key given twice, or no mapping.
    """
    try:
        text = Path(path).read_bytes()
        if len(text) > 1_000_000:
            raise FLPError(f"{path}: {len(text)} bytes are too many for a parameter file")
        values = yaml.load(text.decode(), _Loader)
    except OSError as error:
        raise FLPError(f"cannot read {path}: {explained(error)}") from error
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, LookupError, AttributeError) as error:
        # PyYAML's own constructors stumble over tags such as `!!int ""` or `!!timestamp x`.
        raise FLPError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise FLPError(f"{path} must hold a mapping of sections (datasets, seeds, download, …)")
    return values
