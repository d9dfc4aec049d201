"""Fingerprints of source code: what a stage's results depend on, comments and docstrings aside.

A module's fingerprint is a hash of its syntax tree without docstrings; a stage's covers the module, every `flp`
module it imports, directly or not, and the data files that lie beside them (templates). Editing the actor's
loss changes the fingerprint of offline training and of nothing before it; editing a comment changes none. Whether a
module counts follows from its room: a new file needs no entry anywhere.

Every command asks, and parsing all sources would be much of a short one's time. So what was found is kept in `.flp`,
under a hash of the source it was found in.
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
DATA = frozenset({".csv", ".html", ".css"})  # the kinds of files beside the sources that shape results
_KEPT = Path(".flp/sources.json")
_KEPT_AT_MOST = 2000  # sources: ten times the package
Found = tuple[str, tuple[str, ...]]


@cache
def fingerprint(*modules: str) -> str:
    """Hash the modules (such as `flp.stages.offline_train`) and all of `flp` that they import."""
    closure: set[str] = set()
    pending = list(modules)
    while pending:
        module = pending.pop()
        if module not in closure and _path(module) is not None:
            closure.add(module)
            pending.append(module.rpartition(".")[0])
            pending.extend(_read(module)[1])
    _keep()
    digest = hashlib.sha256()
    for module in sorted(closure):
        digest.update(f"{module}={_read(module)[0]}\n".encode())
    for folder in sorted({path.parent for module in closure if (path := _path(module)) is not None} - {_ROOT}):
        digest.update(_data_hash(folder).encode())
    return digest.hexdigest()[:16]


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
def _read(module: str) -> Found:
    """A module's hash, and what of `flp` it imports."""
    path = _path(module)
    assert path is not None
    source = path.read_bytes()
    place = hashlib.sha256(f"{_reader()} {module} {path.name}\0".encode() + source).hexdigest()
    if (found := _found(_kept().get(place))) is None:
        found = _kept()[place] = _parsed(module, path, source)
        _new.add(place)
    return found


def _parsed(module: str, path: Path, source: bytes) -> Found:
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


_new: set[str] = set()  # what is not in the file yet


@cache
def _kept() -> dict[str, Any]:
    """What this and earlier commands have found."""
    return read_entries(_KEPT)


@cache
def _reader() -> str:
    """Who found it: this file's code, in this Python."""
    return f"{sys.version_info[:2]} {hashlib.sha256(Path(__file__).read_bytes()).hexdigest()}"


def _found(entry: object) -> Found | None:
    """An entry of the file as it was written; None where something else stands there."""
    match entry:
        case [str(digest), [*names]] if all(isinstance(name, str) for name in names):
            return digest, tuple(map(str, names))
    return None


def _keep() -> None:
    """Add what is new to the file, where there is a folder for it; without it, the next command parses again."""
    if _new and _KEPT.parent.is_dir():
        with suppress(FLPError):
            write_json(_KEPT, dict([*_kept().items()][-_KEPT_AT_MOST:]))
            _new.clear()


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements below a node, those of functions and branches too."""
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
    """Hash a package's files of data, those of its folders without Python included: not what an editor leaves there."""
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
    """Print a syntax tree without docstrings, positions and empty fields (which differ between Pythons)."""
    if isinstance(node, ast.AST):
        fields = []
        for name in node._fields:
            value = getattr(node, name, None)
            if name in {"type_comment", "kind", "ctx"} or value is None or value == []:
                continue
            if name == "body" and isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                value = [child for child in value if not _is_docstring(child)]
            fields.append(f"{name}={_canonical(value)}")
        return f"{type(node).__name__}({', '.join(fields)})"
    if isinstance(node, list):
        return "[" + ", ".join(map(_canonical, node)) + "]"
    return repr(node)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
