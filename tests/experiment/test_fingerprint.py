"""A source fingerprint sees code, through imports, and sees no words."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from repository import REPO

import flp
from flp.experiment import fingerprint as module


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Write modules of a package that takes flp's place."""

    def forget() -> None:
        for cached in (module.fingerprint, module._read, module._data_hash, module._cache):
            cached.cache_clear()

    def write(name: str, text: str) -> None:
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        forget()

    monkeypatch.setattr(module, "_ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
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
    package("a", "value = 1\n")
    package("b", "value = 1\n")
    before = module.fingerprint("flp.a")
    package("b", "value = 2\n")
    assert module.fingerprint("flp.a") == before


# Whether a room shapes results, said a second time: a new room must be put here too.
SHAPES_RESULTS = {
    **dict.fromkeys(
        ("randomness", "arm", "networks", "learner", "data", "own", "flow", "evaluation", "parts", "agents", "runs"),
        True,
    ),
    **dict.fromkeys(("report", "paper", "stages", "tools", "library"), True),
    **dict.fromkeys(("system", "params", "experiment", "supervision"), False),
}


def test_every_room_is_known() -> None:
    rooms = {path.parent.name for path in Path(flp.__file__).parent.glob("*/__init__.py")}
    assert rooms <= SHAPES_RESULTS.keys() and len(rooms) > 10


@pytest.mark.parametrize(("room", "counts"), SHAPES_RESULTS.items())
def test_a_new_file_counts_as_its_room_does(package: Callable[[str, str], None], room: str, counts: bool) -> None:
    package("stages.offline_train", f"from flp.{room}.newcomer import value\n")
    package(f"{room}.newcomer", "value = 1\n")
    before = module.fingerprint("flp.stages.offline_train")
    package(f"{room}.newcomer", "value = 2\n")
    assert (module.fingerprint("flp.stages.offline_train") != before) == counts


Keys = dict[str, str]


@pytest.fixture(scope="module")
def real_package(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Keys, Keys]:
    """A copy of the real package, and its keys before and after the flow's stage imports a new file of every room."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(Path(flp.__file__).parent, folder / "flp", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "params.yaml", folder)
    before = _keys(folder)
    with open(folder / "flp/stages/pretrain_flow.py", "a") as stage:
        stage.write("\n\ndef more() -> None:\n")
        for room in SHAPES_RESULTS:
            (folder / "flp" / room).mkdir(exist_ok=True)
            (folder / "flp" / room / "newcomer.py").write_text("value = 1\n")
            stage.write(f"    from flp.{room}.newcomer import value\n")
    return folder, before, _keys(folder)


@pytest.mark.parametrize(("room", "counts"), SHAPES_RESULTS.items())
def test_a_new_file_moves_the_keys_of_what_uses_it(
    real_package: tuple[Path, Keys, Keys], tmp_path: Path, room: str, counts: bool
) -> None:
    """In the real package: a file that the flow's stage imports moves every key from the flow on, or none."""
    original, before, middle = real_package
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    (tmp_path / "flp" / room / "newcomer.py").write_text("value = 2\n")
    after = _keys(tmp_path)
    moved = {place.split("/")[0] for place in middle if middle[place] != after[place]}
    below = {"pretrain_flow", "invert_to_latent", "offline_train", "online_finetune", "report"}
    assert moved - {"figure", "offline_sweep"} == (below if counts else set())
    assert before.keys() == after.keys()


def _keys(folder: Path) -> Keys:
    """The keys that the package in a folder gives its experiment."""
    code = """
        import json
        from flp.experiment.graph import graph
        from flp.experiment.keys import Keys
        from flp.params.loading import load_params
        print(json.dumps({place: a.key for place, a in graph(Keys(load_params("params.yaml"))).items()}))
    """
    run = [sys.executable, "-c", textwrap.dedent(code)]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    found: Keys = json.loads(done.stdout)
    return found


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


def test_what_editors_leave_beside_the_sources_does_not_count(
    package: Callable[[str, str], None], tmp_path: Path
) -> None:
    package("sub.__init__", "x = 1\n")
    before = module.fingerprint("flp.sub")
    for name in ("a.py.orig", "data.csv~", "#b.py#", "c.py.bak", "d.rej", ".e.csv.swp", ".ipynb_checkpoints/f.csv"):
        path = tmp_path / "sub" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x = 2\n")
    (tmp_path / "sub" / "empty" / "__pycache__").mkdir(parents=True)
    package("sub.__init__", "x = 1\n")
    assert module.fingerprint("flp.sub") == before


def test_every_kind_of_data_in_the_package_counts() -> None:
    beside = {path.suffix for path in Path(module.__file__).parents[1].rglob("*") if path.is_file()}
    assert beside - {".py", ".pyc", ".typed"} == module.DATA


def test_cycles_end(package: Callable[[str, str], None]) -> None:
    package("a", "from flp import b\n")
    package("b", "from flp import a\n")
    assert module.fingerprint("flp.a") == module.fingerprint("flp.b")


def forbidden(*_: object) -> None:
    raise AssertionError("parsed again")


def test_what_is_kept_is_not_parsed_again(
    package: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package("a", "from flp import b\n")
    package("b", "value = 1\n")
    found = module.fingerprint("flp.a")
    assert not (tmp_path / ".flp").exists()  # a question leaves no folder behind
    (tmp_path / ".flp").mkdir()
    package("c", "value = 1\n")
    assert module.fingerprint("flp.a") == found
    package("c", "value = 2\n")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_parse", forbidden)
        assert module.fingerprint("flp.a") == found
        package("b", "value = 2\n")
        with pytest.raises(AssertionError, match="parsed again"):
            module.fingerprint("flp.a")
    package("b", "value = 2\n")
    changed = module.fingerprint("flp.a")
    package("b", "# as it was\nvalue = 1\n")
    assert module.fingerprint("flp.a") == found != changed


@pytest.mark.parametrize("spoil", ["{", "[]", '"hash"', '["hash"]', '["hash", "names"]', '["hash", [1]]', "null"])
def test_what_is_kept_but_spoilt_is_parsed_again(
    package: Callable[[str, str], None], tmp_path: Path, spoil: str
) -> None:
    (tmp_path / ".flp").mkdir()
    package("a", "value = 1\n")
    found, kept = module.fingerprint("flp.a"), tmp_path / ".flp" / "sources.json"
    whole = json.loads(kept.read_text())
    kept.write_text(spoil if spoil in ("{", "[]") else json.dumps(dict.fromkeys(whole, json.loads(spoil))))
    package("c", "")
    assert module.fingerprint("flp.a") == found
    assert json.loads(kept.read_text()) == whole


def test_where_nothing_can_be_kept_everything_is_parsed(package: Callable[[str, str], None], tmp_path: Path) -> None:
    package("a", "value = 1\n")
    found = module.fingerprint("flp.a")
    (tmp_path / ".flp" / "sources.json").mkdir(parents=True)
    package("c", "")
    assert module.fingerprint("flp.a") == found


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
            pending.extend(module._read(name)[1])
    return found


def test_pythons_trees_of_a_text_with_a_width_are_alike() -> None:
    """Python 3.12 parses the width to a text of the value and an empty rest, 3.11 to the value alone."""
    older, newer = (ast.parse('f"{x:{width}} y"') for _ in range(2))
    spec = next(node.format_spec for node in ast.walk(newer) if isinstance(node, ast.FormattedValue))
    assert isinstance(spec, ast.JoinedStr)
    spec.values[1:] = [ast.Constant("")]
    older_spec = next(node.format_spec for node in ast.walk(older) if isinstance(node, ast.FormattedValue))
    assert isinstance(older_spec, ast.JoinedStr)
    older_spec.values[1:] = []
    assert module._canonical(older) == module._canonical(newer)
    assert module._canonical(older) != module._canonical(ast.parse('f"{x:{width}} z"'))
