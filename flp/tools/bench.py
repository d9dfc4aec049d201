"""Measure this machine for about two minutes; report how long the experiment will take and which settings shorten it.

No data are needed: the sizes are known, and random numbers will do. Updates are timed in the precisions that this
machine supports, compiled as well, of one run and of as many as train together; so are the flow, its inversion, the
environment and the generation of data. What there is no time for is estimated from the rest, and listed. The results
are saved to .flp/bench.json, on which `flp check` bases its estimates from then on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flp.experiment.advice import Advisor
from flp.experiment.forecast import omissions
from flp.experiment.keys import Keys
from flp.experiment.program import OPTIONS as COMMON
from flp.experiment.program import positive, tool
from flp.supervision.costs import machine
from flp.supervision.operations import Operations
from flp.system.errors import FLPError
from flp.system.units import duration
from flp.tools.columns import aligned

if TYPE_CHECKING:
    import torch

    from flp.experiment.survey import Survey

OPTIONS: dict[str, Any] = {
    "budget": {"type": positive, "default": 120, "metavar": "N", "help": "seconds to measure for (default: 120)"},
    "cores": COMMON["cores"],
    "device": COMMON["device"],
}


def bench(keys: Keys, args: argparse.Namespace) -> int:
    """Measure, advise, and save the results; return the exit status."""
    from flp.experiment.survey import Survey
    from flp.learner.devices import available_cores, device_name, set_up

    cores, device = min(args.cores, available_cores()), set_up(1, args.device)
    survey = Survey(keys, args.budget, cores, device)
    if not survey.specs:
        raise FLPError("nothing is known of these tasks before their data are there: snakemake download_dataset_all")
    costs = survey.run()
    try:
        _tell(keys, survey, cores, device)
    finally:
        costs.save(device=device_name(device))  # last: a disk that is full costs nobody what was measured
    return 0


def _tell(keys: Keys, survey: Survey, cores: int, device: torch.device) -> None:
    """Print what was measured and what follows from it."""
    import torch

    from flp.learner.devices import device_name

    if survey.busy > 1.5:
        print(
            "warning: these are the times of idle cores; with the other programs running now, everything takes "
            f"{survey.busy:.1f} times as long",
            file=sys.stderr,
        )
    gpu = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    advisor = Advisor(keys.params, survey.costs, cores, gpu)
    parts = [_head(survey, device_name(device)), aligned(list(_updates(survey))), _times(advisor), _advice(advisor)]
    print("\n\n".join(filter(None, [*parts, _unmeasured(survey)])))


def _head(survey: Survey, device: str) -> str:
    here, contention = machine(), survey.costs.contention or 1.0
    place = f"{survey.cores} of {here['cores']} cores of {here['cpu']}" + ("" if device == "cpu" else f", {device}")
    shared = f"; with all of them busy each takes {contention:.1f} times as long" if contention > 1.05 else ""
    return f"measured for {survey.spent:.0f} s: {place}, torch {here['torch']}{shared}"


def _updates(survey: Survey) -> Iterator[list[str]]:
    """Milliseconds of one run's update by algorithm and setting, with a ~ where that was not measured itself."""
    costs, settings = survey.costs, survey.costs.settings()
    yield ["ms per update of a run", *settings]
    for dataset, agents in survey.agents.items():
        for agent in agents:
            operations = Operations(survey.specs[dataset], survey.keys.agent_params(dataset, agent))
            updates = [operations.update(agent, 1, setting) for setting in settings]
            times = [f"{1e3 * costs.seconds(update):.3g}" for update in updates]
            marks = ["" if update in costs.measured else "~" for update in updates]
            yield [f"{dataset} {agent}", *map("".join, zip(marks, times, strict=True))]


def _times(advisor: Advisor) -> str:
    """Expected times of every stage with the present settings, and with the recommended ones if they differ."""
    forecasts = {"now": advisor.forecast(advisor.now)}
    if advisor.best != advisor.now:
        forecasts["recommended"] = advisor.forecast(advisor.best)
    now = forecasts["now"]
    rows = [["expected", *forecasts]]
    rows += [[part, *(duration(f.parts.get(part, 0.0)) for f in forecasts.values())] for part in now.parts]
    rows.append(["in all", *(duration(forecast.total) for forecast in forecasts.values())])
    return "\n".join([aligned(rows), *omissions(now)])


def _advice(advisor: Advisor) -> str:
    """Lines for params.yaml, each with its speed-up."""
    best, now = advisor.best, advisor.now

    def line(name: str) -> str:
        value, before = getattr(best, name), getattr(now, name)
        why = "unchanged" if value == before else f"{advisor.speedup(**{name: value}):.2f} times as fast"
        return f"  {name}: {str(value).lower()} # {why}"

    lines = ["recommended, for params.yaml or an overlay on it:", "offline:"]
    lines += [line(name) for name in ("precision", "compile", "seeds_per_job")]
    if (best.precision, best.compile) != (now.precision, now.compile):
        lines.append(
            "# precision and compile change rounding and are part of the runs' keys: finished runs train again"
        )
    if best.seeds_per_job != now.seeds_per_job:
        lines.append("# seeds_per_job is not part of a key, but of the folders' names: set it before training")
    return "\n".join(lines)


def _unmeasured(survey: Survey) -> str:
    """Lines on what was not measured."""
    lines = []
    if survey.refusal:
        lines.append(f"compile was not measured: {survey.refusal}")
    elif not any("compiled" in setting for setting in survey.costs.settings()):
        lines.append("compile was not measured for lack of time, and is not considered")
    if survey.skipped:
        names, more = "; ".join(survey.skipped[:8]), len(survey.skipped) - 8
        names += f"; and {more} more" if more > 0 else ""
        lines.append(f"no time was left for these, which are estimated from the others (--budget gives more): {names}")
    return "\n".join(lines)


main = tool("bench", OPTIONS, bench, __doc__)
