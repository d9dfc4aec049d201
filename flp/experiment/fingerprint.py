"""Fingerprints of source code: what a stage's results depend on, comments and docstrings aside.

A module's fingerprint is a hash of its syntax tree without docstrings; a stage's covers the module, every `flp`
module it imports, directly or not, and the data files that lie beside them (templates). Editing the actor's
loss changes the fingerprint of offline training and of nothing before it; editing a comment changes none. Whether a
module counts follows from its room: a new file needs no entry anywhere.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGE = _ROOT.name
# Rooms that carry results but do not shape them: parameters enter keys by value, file formats by version.
_CARRIERS = frozenset({"system", "params", "experiment", "supervision"})


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
def _read(module: str) -> tuple[str, tuple[str, ...]]:
    """A module's hash, and what of `flp` it imports. Its tree goes: many trees keep the garbage collector busy."""
    path = _path(module)
    assert path is not None
    tree = ast.parse(path.read_bytes(), str(path))
    names: set[str] = set()
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(module, node)
            names.add(source)
            names.update(f"{source}.{alias.name}" for alias in node.names)
    imported = tuple(sorted(name for name in names if name.split(".")[0] == _PACKAGE))
    return hashlib.sha256(_canonical(tree).encode()).hexdigest(), imported


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
    """Hash the files of a package that are not Python, those of its folders without Python included."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name != "__pycache__" and not (path / "__init__.py").exists():
            digest.update(f"{path.name}/{_data_hash(path)}".encode())
        elif path.is_file() and path.suffix not in {".py", ".pyc", ".so"} and not path.name.startswith("."):
            digest.update(f"{path.name}={hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


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
