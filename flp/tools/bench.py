"""Measure this machine for some two minutes; say how long the experiment will take and which settings shorten it.

No data are needed: an experiment's sizes are known, and random numbers do. Updates are timed in the precisions that
this machine knows, compiled too, of one run and of as many as train at once; so are the flow, its inversion, the
environment and generated data. What there is no time for is reckoned from the rest, and named. The measurement is kept
in .flp/bench.json, by which `flp check` tells the expected times from then on.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flp.experiment.advice import Advisor
from flp.experiment.forecast import Forecast
from flp.experiment.keys import Keys
from flp.experiment.program import OPTIONS as COMMON
from flp.experiment.program import positive, tool
from flp.supervision.speeds import Pieces, machine
from flp.system.errors import FLPError
from flp.tools.columns import aligned

if TYPE_CHECKING:
    from flp.experiment.survey import Survey

CORES: dict[str, Any] = {
    "type": positive,
    "default": max(1, len(os.sched_getaffinity(0))),
    "metavar": "N",
    "help": "CPU cores that the experiment will have, as snakemake's --cores (default: every core)",
}
OPTIONS: dict[str, Any] = {
    "budget": {"type": positive, "default": 120, "metavar": "N", "help": "seconds to measure for (default: 120)"},
    "cores": CORES,
    "device": COMMON["device"],
}


def bench(keys: Keys, args: argparse.Namespace) -> int:
    """Measure, keep it, and advise."""
    import torch

    from flp.experiment.survey import Survey
    from flp.learner.devices import available_cores, device_name, set_up

    cores, device = min(args.cores, available_cores()), set_up(1, args.device)
    survey = Survey(keys, args.budget, cores, device)
    if not survey.specs:
        raise FLPError("nothing is known of these tasks before their data are there: snakemake download_dataset_all")
    survey.run().keep(device=device_name(device))
    if survey.busy > 1.5:
        beside = f"beside other programs, as now, all takes {survey.busy:.1f} times as long"
        print(f"warning: these are times of cores that have nothing else to do; {beside}", file=sys.stderr)
    gpu = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    advisor = Advisor(keys.params, survey.book, cores, gpu)
    parts = [_head(survey, device_name(device)), aligned(list(_updates(survey))), _times(advisor), _advice(advisor)]
    print("\n\n".join(filter(None, [*parts, _left(survey)])))
    return 0


def _head(survey: Survey, device: str) -> str:
    here, crowding = machine(), survey.book.crowding
    place = f"{survey.cores} of {here['cores']} cores of {here['cpu']}" + ("" if device == "cpu" else f", {device}")
    busy = f"; with all of them at work one takes {crowding:.1f} times as long" if crowding > 1.05 else ""
    return f"measured for {survey.spent:.0f} s: {place}, torch {here['torch']}{busy}"


def _updates(survey: Survey) -> Iterator[list[str]]:
    """Milliseconds of one run's update by algorithm and setting; of what was not measured itself, with a ~."""
    settings = survey.book.settings()
    yield ["ms per update of a run", *settings]
    for dataset, agents in survey.agents.items():
        for agent in agents:
            pieces = Pieces(survey.specs[dataset], survey.keys.agent_params(dataset, agent))
            shown = [pieces.update(agent, 1, setting) for setting in settings]
            cells = [f"{'~' * (p not in survey.book.measured)}{1e3 * survey.book.seconds(p):.3g}" for p in shown]
            yield [f"{dataset} {agent}", *cells]


def _times(advisor: Advisor) -> str:
    """Expected times of every stage as it is set now, and as it should be."""
    now, best = advisor.forecast(advisor.now), advisor.forecast(advisor.best)
    changed = advisor.best != advisor.now
    rows = [["expected", "now", *["recommended"] * changed]]
    for part in now.parts:
        rows.append([part, duration(now.parts[part]), *[duration(best.parts.get(part, 0.0))] * changed])
    rows.append(["in all", duration(now.total), *[duration(best.total)] * changed])
    return "\n".join([aligned(rows), *notes(now)])


def _advice(advisor: Advisor) -> str:
    """Lines for params.yaml, with what each gains."""
    best, now = advisor.best, advisor.now

    def line(name: str) -> str:
        value, before = getattr(best, name), getattr(now, name)
        why = "as it is" if value == before else f"{advisor.gain(**{name: value}):.2f} times as fast"
        return f"  {name}: {str(value).lower()} # {why}"

    lines = ["recommended, for params.yaml or an overlay on it:", "offline:"]
    lines += [line(name) for name in ("precision", "compile", "seeds_per_job")]
    if (best.precision, best.compile) != (now.precision, now.compile):
        lines.append("# precision and compile round otherwise and are in the runs' keys: finished runs are made anew")
    if best.seeds_per_job != now.seeds_per_job:
        lines.append("# seeds_per_job is in no key, but in the folders' names: set it before you train")
    return "\n".join(lines)


def _left(survey: Survey) -> str:
    """What was not measured."""
    told = []
    if survey.refusal:
        told.append(f"compile was not measured: {survey.refusal}")
    elif not any("compiled" in setting for setting in survey.book.settings()):
        told.append("compile was not measured for want of time, and is not judged")
    if survey.left:
        shown = "; ".join(survey.left[:8]) + (f"; and {len(survey.left) - 8} more" if len(survey.left) > 8 else "")
        told.append(f"no time was left for these, which are reckoned from the others (--budget gives more): {shown}")
    return "\n".join(told)


def estimate(keys: Keys, cores: int) -> str:
    """What `flp check` says of the time: by finished runs, by what was measured here, or as on a usual core."""
    from flp.supervision.speeds import Book, kept

    known = kept()
    book, told = known if known else (Book(), {})
    found = Forecast(keys, book, cores, gpu=bool(known) and told.get("device", "cpu") != "cpu", recorded=True)
    parts = ", ".join(f"{part} {duration(seconds)}" for part, seconds in found.parts.items())
    names = {
        "recorded": "finished runs' times",
        "measured": f"`flp bench` of {told.get('when')}",
        "reckoned": "what is like it there",
        "usual": "a usual CPU core, perhaps unlike yours (`flp bench` measures)",
    }
    sources = ", ".join(name for source, name in names.items() if found.sources[source])
    by = f"; by {sources}" if sources else ""
    return "\n".join([f"expected on {cores} cores: {duration(found.total)} ({parts}){by}", *notes(found)])


def notes(forecast: Forecast) -> list[str]:
    """What its times are without."""
    told, names = [], [name for name in forecast.keys.params.datasets if name not in forecast.keys.params.tasks]
    if any(forecast.keys.dataset_params(name).download.source == "ogbench" for name in names):
        told.append("downloads are not counted")
    if forecast.unknown:
        told.append(f"not counted before their data are there: {', '.join(forecast.unknown)}")
    return told


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


main = tool("bench", OPTIONS, bench, __doc__)
