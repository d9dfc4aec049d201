"""The audit of pinned packages: what fails it, what is accepted, and what it says where nothing can be looked up."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools import audit

HARMED = {
    "name": "a",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1", "GHSA-1"], "fix_versions": ["1.1", "2.0"]}],
}
FINE = {"name": "b", "version": "2.0", "vulns": []}
UNKNOWN = {"name": "c", "skip_reason": "Dependency not found on PyPI"}


def answer(monkeypatch, stdout, stderr="", error=None):
    def run(line, **options):
        assert str(audit.ROOT / "constraints.txt") in line
        if error:
            raise error
        return subprocess.CompletedProcess(line, 1, stdout, stderr)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(audit, "try_one", lambda name, version: None)


def test_a_known_vulnerability_fails_and_says_what_to_pin(monkeypatch, capsys):
    answer(monkeypatch, json.dumps({"dependencies": [FINE, HARMED, UNKNOWN]}))
    assert audit.main() == 1
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("a 1.0: PYSEC-1, fixed in 1.1 or 2.0")
    assert last == "not audited: c"


@pytest.mark.parametrize("name", ["PYSEC-1", "CVE-1"])
def test_an_accepted_one_passes_with_its_reason(name):
    lines, failed = audit.judge([FINE, HARMED], {name: "it is not used so"})
    assert not failed
    assert lines == ["a 1.0: PYSEC-1, accepted: it is not used so", "audited 2 pinned packages"]


def test_what_is_accepted_in_vain_is_told():
    lines, failed = audit.judge([FINE], {"CVE-9": "a reason"})
    assert not failed
    assert "CVE-9" in lines[0] and "remove it" in lines[0]


@pytest.mark.parametrize(
    "said",
    [
        {"stdout": "", "stderr": "Traceback ...\nConnectionError: Failed to resolve 'pypi.org'"},
        {"stdout": json.dumps({"dependencies": [UNKNOWN]})},
        {"stdout": "", "error": subprocess.TimeoutExpired("pip-audit", 1)},
    ],
)
def test_where_nothing_can_be_looked_up_it_says_so_and_passes(monkeypatch, capsys, said):
    answer(monkeypatch, **said)
    assert audit.main() == 0
    out = capsys.readouterr().out
    assert out.startswith("not audited: ") and out.count("\n") == 1


@pytest.mark.parametrize("fault", [requests.ConnectionError("no such host"), requests.HTTPError("404 Not Found")])
def test_a_mirror_without_advisories_is_asked_only_once(monkeypatch, capsys, fault):
    asked = []

    def get(url, timeout):
        asked.append(url)
        raise fault

    monkeypatch.setattr(requests, "get", get)
    assert audit.main() == 0
    assert capsys.readouterr().out == f"not audited: PyPI's advisories are out of reach ({fault})\n"
    assert len(asked) == 1


NETWORK = {"aiohttp", "asyncio", "ftplib", "http", "httpx", "requests", "smtplib", "urllib", "urllib3"}


def test_only_the_download_can_reach_a_network():
    for path in (audit.ROOT / "flp").rglob("*.py"):
        text = path.read_text()
        nodes = list(ast.walk(ast.parse(text)))
        imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
        found = {name.split(".")[0] for name in imported} & NETWORK
        found |= {name for name in ("AF_INET", "create_connection") if name in text}  # pipes are sockets, too
        assert not found or path.name == "fetch.py", f"{path} uses {found}"


def test_every_pinned_package_is_pinned_exactly():
    lines = (audit.ROOT / "constraints.txt").read_text().split()
    assert len(lines) > 50
    assert all(line.count("==") == 1 for line in lines)
