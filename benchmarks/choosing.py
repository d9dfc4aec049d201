"""Where N = 4 and argmax are the right choice: network size × learning rate × N × selection, with one critic each.

In the root of an experiment with its flow and latents:

    python -m benchmarks.choosing measure maze.csv --configfile presets/cube-single.yaml
    python -m benchmarks.choosing draw maze.csv cube.csv      # docs/images/latents-sweep.png

Each size and rate is trained with one draw and with the best of four in targets, and each agent acts in all ways.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from flp.agents.flp import FLP
from flp.evaluation.evaluator import Evaluator
from flp.learner.devices import set_up
from flp.params.loading import Params, load_params
from flp.params.run import Run
from flp.runs.run_batch import RunBatch
from flp.system.progress import Progress

IMAGE = Path(__file__).resolve().parents[1] / "docs" / "images" / "latents-sweep.png"
TARGETS = (1, 4)
# Selection, N, temperature; N = 0 is the policy's mean.
WAYS = (*(("argmax", n, 1.0) for n in (0, 1, 4, 16)), ("resample", 16, 1.0), ("resample", 16, 0.3))
NAMES = ("mean", "one draw", "best of 4", "best of 16", "resampled from 16", "the same at 0.3 alpha")
COLORS = ("#3f7d3a", "#9aa0a6", "#e08a1e", "#b45309", "#3b82c4", "#1e3a8a")


def changed(params: Params, hidden: list[int], rate: float, steps: int) -> Params:
    """The experiment with other networks and another rate."""
    values = {"hidden": hidden, "learning_rate": rate, "steps": steps, "candidates": 4, "target_candidates": None}
    offline = params.offline.model_copy(update=values | {"selection": "argmax", "kl_budget": None})
    return params.model_copy(update={"offline": offline})


def trained(work: RunBatch, label: str) -> FLP:
    """The agent after training as in `offline_train`, without evaluations."""
    offline = work.params.offline
    agent, replay = work.load()
    assert isinstance(agent, FLP)
    trainer = work.trainer(agent, replay, "offline", offline.steps)
    progress = Progress(label, offline.steps)
    trainer.fit(offline.steps, (offline.steps, offline.steps), lambda step, logs: None, lambda: None, progress)
    progress.close()
    return agent


def successes(agent: FLP, evaluator: Evaluator) -> list[dict[str, Any]]:
    """The success of each run for each way of acting."""
    rows = []
    for selection, count, temperature in WAYS:
        agent.resamples, agent.candidates = selection == "resample", (max(count, 1),) * len(evaluator.tasks)
        agent.acting_noise = float(count > 0)
        agent.surplus, agent.temperature = None, temperature
        played = evaluator.evaluate(agent.act)
        rows += [
            {
                "selection": selection,
                "N": count,
                "temperature": temperature,
                "run": run,
                "success": float(played.success[run].mean()),
            }
            for run in range(len(evaluator.tasks))
        ]
    return rows


def measure(arguments: argparse.Namespace) -> None:
    """Train and act in all ways; write one row per network, rate, N of the target, task and way."""
    params = load_params("params.yaml", *arguments.configfile)
    dataset, device = params.datasets[0], set_up(arguments.threads, "cpu")
    params = params.for_dataset(dataset).for_agent("flp")
    tasks = arguments.tasks or params.offline.tasks
    runs = [Run(task, params.seeds[0], params.offline.alpha, count, f"n{count}") for count in TARGETS for task in tasks]
    table = []
    for width, rate in itertools.product(arguments.widths, arguments.rates):
        hidden = [width] * arguments.layers
        work = RunBatch(dataset, "flp", runs, changed(params, hidden, rate, arguments.steps), device)
        agent = trained(work, f"{dataset} {width} {rate:g}")
        with Evaluator(dataset, [run.task for run in runs], episodes=arguments.episodes) as evaluator:
            for row in successes(agent, evaluator):
                run = runs[row.pop("run")]
                about = {"dataset": dataset, "width": width, "rate": rate, "targets": run.candidates, "task": run.task}
                table.append(about | row)
        pd.DataFrame(table).to_csv(arguments.table, index=False)


def draw(arguments: argparse.Namespace) -> None:
    """One row of panels per environment: networks and rates side by side, a bar per way of acting."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tables = [pd.read_csv(path) for path in arguments.tables]
    figure, panels = plt.subplots(len(tables), len(TARGETS), figsize=(9, 5), sharey=True, layout="constrained")
    for row, table in zip(panels, tables, strict=True):
        for panel, targets in zip(row, TARGETS, strict=True):
            rows = table[table["targets"] == targets]
            mean = rows.groupby(["width", "rate", "selection", "N", "temperature"])["success"].mean().mul(100)
            places = sorted({(width, rate) for width, rate, *_ in mean.index})
            for k, (way, name, color) in enumerate(zip(WAYS, NAMES, COLORS, strict=True)):
                left = [i + 0.14 * (k - 2.5) for i in range(len(places))]
                panel.bar(left, [mean[place + way] for place in places], 0.13, color=color, label=name)
            panel.set_xticks(
                range(len(places)), [f"{width} wide\n{rate:g}" for width, rate in places], fontsize="small"
            )
            name = "one draw" if targets == 1 else f"best of {targets}"
            panel.set(title=f"{table['dataset'][0]}, targets: {name}", ylim=(0, 100))
        row[0].set_ylabel("success, %")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(WAYS), fontsize="small", frameon=False)
    figure.savefig(IMAGE, dpi=110)


def main() -> None:
    """Measure, or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    measuring = verbs.add_parser("measure")
    measuring.add_argument("table", type=Path)
    measuring.add_argument("--configfile", nargs="*", default=[])
    measuring.add_argument("--tasks", type=int, nargs="*")
    measuring.add_argument("--widths", type=int, nargs="+", default=[64, 256])
    measuring.add_argument("--layers", type=int, default=3)
    measuring.add_argument("--rates", type=float, nargs="+", default=[0.0003, 0.001])
    measuring.add_argument("--steps", type=int, default=10000)
    measuring.add_argument("--episodes", type=int, default=20)
    measuring.add_argument("--threads", type=int, default=1)
    measuring.set_defaults(run=measure)
    drawing = verbs.add_parser("draw")
    drawing.add_argument("tables", type=Path, nargs="+")
    drawing.set_defaults(run=draw)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
