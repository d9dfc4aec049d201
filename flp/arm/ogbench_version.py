"""The versions of OGBench's sources that this package was written against; others run their own code."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

SOURCES = ("envs/*env.py", "controllers/*.py", "lie/*.py", "oracles/plan/plan_oracle.py")
KNOWN = {"fb1847592db5b1a731ec8f8b3e7b91ee34ac991c1a98fdfe98f381f6fdc411c7"}  # OGBench 1.2.2


def digest(folder: Path) -> str:
    """SHA-256 of the sources overridden or repeated here, in the folder of `ogbench.manipspace`."""
    files = sorted(path for pattern in SOURCES for path in folder.glob(pattern))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


@cache
def is_known_version() -> bool:
    """Whether the installed OGBench has these very sources."""
    spec = find_spec("ogbench")
    return spec is not None and spec.origin is not None and digest(Path(spec.origin).parent / "manipspace") in KNOWN
