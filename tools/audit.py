"""Check the pinned packages for known vulnerabilities: `python tools/audit.py` (part of `make lint`).

pip-audit looks up every line of constraints.txt in PyPI's advisories. A known vulnerability fails the audit, unless
`[tool.audit.accepted]` in pyproject.toml names it with the reason why it is harmless here. If the advisories cannot be
reached (no network, or an index that only mirrors files), a line says `not audited`, and the audit passes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 120


def main() -> int:
    """Audit; return the exit status."""
    accepted = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["audit"]["accepted"]
    pins = ROOT / "constraints.txt"
    try:
        try_one(*pins.read_text().split()[0].split("=="))
        packages = look_up(pins)
    except LookupError as error:
        print(f"not audited: {error}")
        return 0
    lines, failed = judge(packages, accepted)
    print("\n".join(lines))
    return int(failed)


def try_one(name: str, version: str) -> None:
    """Request one package's advisories, so that a mirror without any is not asked for all of them.

    Raises:
        LookupError: there is no answer.
    """
    try:
        requests.get(f"https://pypi.org/pypi/{name}/{version}/json", timeout=10).raise_for_status()
    except requests.RequestException as error:
        raise LookupError(f"PyPI's advisories are out of reach ({str(error)[:160]})") from None


def look_up(requirements: Path) -> list[dict[str, Any]]:
    """Every pinned package as pip-audit reports it: a name, and `version` and `vulns`, or a `skip_reason`.

    Raises:
        LookupError: the advisories cannot be reached.
    """
    line = [sys.executable, "-m", "pip_audit", "--requirement", str(requirements), "--no-deps", "--disable-pip"]
    line += ["--format", "json", "--desc", "off", "--progress-spinner", "off", "--timeout", "10"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise LookupError(f"no answer from PyPI within {SECONDS} s") from None
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        last = (done.stderr.strip() or "pip-audit said nothing").splitlines()[-1]
        raise LookupError(last[:200]) from None
    if packages and all("skip_reason" in package for package in packages):
        raise LookupError(f"the index has no advisories for any of the {len(packages)} pinned packages")
    return packages


def judge(packages: list[dict[str, Any]], accepted: dict[str, str]) -> tuple[list[str], bool]:
    """Lines about the packages, and whether one has a vulnerability that is not accepted."""
    lines, failed, known = [], False, set()
    for package in packages:
        for vulnerability in package.get("vulns", []):
            names = {vulnerability["id"], *vulnerability.get("aliases", [])}
            known |= names
            text = f"{package['name']} {package['version']}: {vulnerability['id']}"
            if reasons := [reason for name, reason in accepted.items() if name in names]:
                lines.append(f"{text}, accepted: {reasons[0]}")
            else:
                failed = True
                fixed = " or ".join(vulnerability.get("fix_versions", [])) or "no version yet"
                lines.append(f"{text}, fixed in {fixed}; pin that in constraints.txt, or accept it in pyproject.toml")
    lines += [
        f"{name} is accepted in pyproject.toml but no longer found; remove it" for name in accepted.keys() - known
    ]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    lines.append(f"audited {len(packages) - len(skipped)} pinned packages")
    if skipped:
        lines.append(f"not audited: {', '.join(skipped)}")
    return lines, failed


if __name__ == "__main__":
    sys.exit(main())
