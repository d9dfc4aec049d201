"""Run every benchmark and write results/bench/bench.json: `make bench`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import evaluate, generate, graph, inversion, loading, scaling, update
from flp.learner.devices import available_cores
from flp.system.artifacts import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=available_cores(), help="CPU threads (default: every core)")
    threads = parser.parse_args().threads
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "update": lambda: update.rows(threads),
        "inversion": lambda: inversion.rows(threads),
        "evaluate": lambda: evaluate.rows(workers=threads),
        "generate": generate.run,
        "loading": loading.rows,
        "scaling": lambda: scaling.rows(threads, "cuda" if torch.cuda.is_available() else "cpu"),
        "graph": graph.rows,
    }
    found, start = [], time.monotonic()
    for name, rows in parts.items():
        print(f"{name} … ({time.monotonic() - start:.0f} s)", file=sys.stderr)
        for row in rows():
            found.append(row)
            value, ratio = f"{row['value']:,.1f} {row['unit']}", f"{row['ratio']:.2f}"
            print(f"{row['name']:<60} {row['threads']:>2} threads {value:>32}   ratio {ratio}")
        torch.set_num_threads(threads)
    write_json("results/bench/bench.json", found)
    print("results/bench/bench.json")


if __name__ == "__main__":
    main()
