"""The rate of several runs sharded over processes, as in `flp.runs.shards`."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.subject import BEST_OF_4, make_trainer
from flp.learner.devices import set_up
from flp.learner.trainer import CHUNK
from flp.params.run import Run
from flp.runs.shards import Shard, deal, run_shards
from flp.runs.turns import Turns

WARM, TIMED = 20, 200  # updates


def work(folder: str, compile_: bool, shards: int, shard: Shard, turns: Turns) -> None:
    device = set_up(shard.threads, "cpu")
    trainer = make_trainer(len(shard.runs), 2, 2, [128, 128], device, 256, **BEST_OF_4, compile=compile_)

    def train(until: int) -> None:
        while trainer.step < until:
            with turns(trainer.step):
                trainer.run_chunk(CHUNK)

    train(WARM)
    Path(folder, f"{shard.runs[0].name}.warm").touch()
    while len(list(Path(folder).glob("*.warm"))) < shards:  # the others still compile
        time.sleep(0.01)
    start = time.time()
    train(WARM + TIMED)
    Path(folder, f"{shard.runs[0].name}.times").write_text(f"{start} {time.time()}", encoding="utf-8")


def shard_rate(runs: int, threads: int, *, compile: bool = False) -> float:
    """Updates per second of all runs together."""
    numbered = [Run(1, seed, 1.0, 4) for seed in range(runs)]
    dealt = deal(numbered, threads)
    with TemporaryDirectory() as folder:
        shards = [Shard(part, max(1, threads // len(dealt)), Path(folder)) for part in dealt]
        run_shards(partial(work, folder, compile, len(shards)), shards, threads)
        times = [list(map(float, file.read_text().split())) for file in Path(folder).glob("*.times")]
    return TIMED / (max(stop for _, stop in times) - min(start for start, _ in times))
