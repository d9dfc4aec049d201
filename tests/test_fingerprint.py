"""A source fingerprint sees code, through imports, and sees no words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flp import fingerprint as module


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Write modules of a package that takes flp's place."""

    def forget() -> None:
        for cached in (module.fingerprint, module._tree, module._imports, module._module_hash, module._data_hash):
            cached.cache_clear()

    def write(name: str, text: str) -> None:
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        forget()

    monkeypatch.setattr(module, "_ROOT", tmp_path)
    forget()
    yield write
    forget()


def test_words_and_layout_change_nothing(package: Callable[[str, str], None]) -> None:
    package("a", '"""Doc."""\ndef f(x):\n    """Doc."""\n    return x + 1\n')
    before = module.fingerprint("flp.a")
    package("a", '"""Other."""\n\n# comment\ndef f(x):\n    """Other words."""\n    return (x  +  1)  # why\n')
    assert module.fingerprint("flp.a") == before
    package("a", "def f(x):\n    return x + 1\n")
    assert module.fingerprint("flp.a") == before
    package("a", "def f(x):\n    return x + 2\n")
    assert module.fingerprint("flp.a") != before


@pytest.mark.parametrize(
    "statement",
    ["import flp.b", "from flp import b", "from flp.b import value", "from flp.b import value as v", "from . import b"],
)
def test_imports_are_followed(package: Callable[[str, str], None], statement: str) -> None:
    package("a", f"{statement}\n")
    package("b", "from flp import c\nvalue = 1\n")
    package("c", "value = 1\n")
    before = module.fingerprint("flp.a")
    package("c", "value = 2\n")
    assert module.fingerprint("flp.a") != before


def test_imports_within_functions_are_followed(package: Callable[[str, str], None]) -> None:
    package("a", "def f():\n    from flp import b\n    return b\n")
    package("b", "value = 1\n")
    before = module.fingerprint("flp.a")
    package("b", "value = 2\n")
    assert module.fingerprint("flp.a") != before


def test_what_is_not_imported_does_not_count(package: Callable[[str, str], None]) -> None:
    package("a", "from flp import errors\n")
    package("b", "value = 1\n")
    package("errors", "value = 1\n")
    before = module.fingerprint("flp.a")
    package("b", "value = 2\n")
    package("errors", "value = 2\n")
    assert module.fingerprint("flp.a") == before


def test_relative_imports_count_from_the_package(package: Callable[[str, str], None]) -> None:
    package("sub.__init__", "from .b import value\n")
    package("sub.a", "from ..c import value\nfrom . import b\n")
    package("sub.b", "value = 1\n")
    package("c", "value = 1\n")
    before = module.fingerprint("flp.sub.a")
    package("c", "value = 2\n")
    middle = module.fingerprint("flp.sub.a")
    package("sub.b", "value = 2\n")
    assert len({before, middle, module.fingerprint("flp.sub.a")}) == 3


def test_packages_and_their_data_count(package: Callable[[str, str], None], tmp_path: Path) -> None:
    package("a", "from flp.sub.b import value\n")
    package("sub.__init__", "x = 1\n")
    package("sub.b", "value = 1\n")
    (tmp_path / "sub" / "templates").mkdir()
    seen = {module.fingerprint("flp.a")}
    package("sub.__init__", "x = 2\n")
    seen.add(module.fingerprint("flp.a"))
    (tmp_path / "sub" / "templates" / "page.html").write_text("one")
    package("sub.__init__", "x = 2\n")
    seen.add(module.fingerprint("flp.a"))
    assert len(seen) == 3


def test_cycles_end(package: Callable[[str, str], None]) -> None:
    package("a", "from flp import b\n")
    package("b", "from flp import a\n")
    assert module.fingerprint("flp.a") == module.fingerprint("flp.b")


def test_training_a_flow_knows_no_agent() -> None:
    for stage in ("download_dataset", "pretrain_flow", "invert_to_latent"):
        assert not any("agents" in name for name in _closure(f"flp.stages.{stage}"))
    assert "flp.agents.flp" in _closure("flp.stages.offline_train", "flp.agents.flp")


def _closure(*names: str) -> set[str]:
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in found and module._path(name) is not None:
            found.add(name)
            pending.extend(module._imports(name))
    return found
