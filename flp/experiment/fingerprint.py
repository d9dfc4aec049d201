"""Fingerprints of source code: the code that a stage's results depend on, without comments and docstrings.

A module's fingerprint is a hash of its syntax tree without docstrings; a stage's covers the module, every `flp` module
that it imports, directly or not, and the data files next to them (templates). Editing the actor's loss changes the
fingerprint of offline training and of nothing before it; editing a comment changes none. Whether a module counts
follows from its room: a new file needs no entry anywhere.

Every command needs them, and parsing all sources would take much of a short command's time. Results are therefore
cached in `.flp`, under a hash of the source.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from flp.system.artifacts import read_entries, write_json
from flp.system.errors import FLPError

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGE = _ROOT.name
# Rooms that carry results but do not shape them: parameters enter keys by value, file formats by version.
_CARRIERS = frozenset({"system", "params", "experiment", "supervision"})
DATA = frozenset({".csv", ".html", ".css"})  # suffixes of data files that shape results
_CACHE_FILE = Path(".flp/sources.json")
_CACHE_SIZE = 2000  # sources: ten times the package
Parsed = tuple[str, tuple[str, ...]]


@cache
def fingerprint(*modules: str) -> str:
    """Hash the modules (such as `flp.stages.offline_train`) and all of `flp` that they import."""
    covered = imported(*modules)
    digest = hashlib.sha256()
    for module in sorted(covered):
        digest.update(f"{module}={_read(module)[0]}\n".encode())
    for folder in sorted({path.parent for module in covered if (path := _path(module)) is not None} - {_ROOT}):
        digest.update(_data_hash(folder).encode())
    return digest.hexdigest()[:16]


def imported(*modules: str) -> frozenset[str]:
    """The modules that a fingerprint of these covers: themselves, and what they import of `flp`, directly or not."""
    closure: set[str] = set()
    pending = list(modules)
    while pending:
        module = pending.pop()
        if module not in closure and _path(module) is not None:
            closure.add(module)
            pending.append(module.rpartition(".")[0])
            pending.extend(_read(module)[1])
    _save_cache()
    return frozenset(closure)


@cache
def built_on(agent: str) -> frozenset[str]:
    """The other algorithms whose modules an algorithm's imports, and whose hyperparameters it may read."""
    modules = imported(f"flp.agents.{agent}") - {f"flp.agents.{agent}"}
    return frozenset(module.rpartition(".")[2] for module in modules if module.startswith("flp.agents."))


def _path(module: str) -> Path | None:
    parts = module.split(".")
    if parts[0] != _PACKAGE or (parts[1:2] and parts[1] in _CARRIERS):
        return None
    base = _ROOT.joinpath(*parts[1:])
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if len(parts) > 1 and candidate.is_file():
            return candidate
    return None


@cache
def _read(module: str) -> Parsed:
    """A module's hash, and the names that it imports from `flp`."""
    path = _path(module)
    assert path is not None
    source = path.read_bytes()
    cache_key = hashlib.sha256(f"{_parser()} {module} {path.name}\0".encode() + source).hexdigest()
    if (parsed := _entry(_cache().get(cache_key))) is None:
        parsed = _cache()[cache_key] = _parse(module, path, source)
        _unsaved.add(cache_key)
    return parsed


def _parse(module: str, path: Path, source: bytes) -> Parsed:
    tree = ast.parse(source, str(path))
    names: set[str] = set()
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = _absolute(module, node)
            names.add(origin)
            names.update(f"{origin}.{alias.name}" for alias in node.names)
    imported = tuple(sorted(name for name in names if name.split(".")[0] == _PACKAGE))
    return hashlib.sha256(_canonical(tree).encode()).hexdigest(), imported


_unsaved: set[str] = set()  # keys of entries that are not in the file yet


@cache
def _cache() -> dict[str, Any]:
    """Entries of this and earlier commands."""
    return read_entries(_CACHE_FILE)


@cache
def _parser() -> str:
    """What an entry depends on besides the source: this file's code and the version of Python."""
    return f"{sys.version_info[:2]} {hashlib.sha256(Path(__file__).read_bytes()).hexdigest()}"


def _entry(entry: object) -> Parsed | None:
    """An entry of the file in its types; None for anything else."""
    match entry:
        case [str(digest), [*names]] if all(isinstance(name, str) for name in names):
            return digest, tuple(map(str, names))
    return None


def _save_cache() -> None:
    """Add new entries to the file, if its folder exists; without it, the next command parses again."""
    if _unsaved and _CACHE_FILE.parent.is_dir():
        with suppress(FLPError):
            write_json(_CACHE_FILE, dict([*_cache().items()][-_CACHE_SIZE:]))
            _unsaved.clear()


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements below a node, including those of functions and branches."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield child
            yield from _statements(child)


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """The module that `from … import` names; dots count from the importing module's package."""
    if not node.level:
        return node.module or ""
    path = _path(module)
    parts = module.split(".")
    above = node.level - (path is not None and path.name == "__init__.py")
    return ".".join([*parts[: len(parts) - above], *filter(None, [node.module])])


@cache
def _data_hash(folder: Path) -> str:
    """Hash a package's data files and those of its subfolders without Python code, but not an editor's leftovers."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not (path / "__init__.py").exists():
            if (below := _data_hash(path)) != _NOTHING:
                digest.update(f"{path.name}/{below}".encode())
        elif path.is_file() and path.suffix in DATA:
            digest.update(f"{path.name}={hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


_NOTHING = hashlib.sha256().hexdigest()


def _canonical(node: object) -> str:
    """A syntax tree as text without docstrings, positions and empty fields (which differ between Python versions)."""
    if isinstance(node, ast.AST):
        fields = []
        for name in node._fields:
            value = getattr(node, name, None)
            if name in {"type_comment", "kind", "ctx"} or value is None or value == []:
                continue
            if name == "body" and isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                value = [child for child in value if not _is_docstring(child)]
            if isinstance(node, ast.JoinedStr):  # Python 3.12 ends `{x:{width}}` with an empty text
                value = [child for child in value if not (isinstance(child, ast.Constant) and child.value == "")]
            fields.append(f"{name}={_canonical(value)}")
        return f"{type(node).__name__}({', '.join(fields)})"
    if isinstance(node, list):
        return "[" + ", ".join(map(_canonical, node)) + "]"
    return repr(node)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
