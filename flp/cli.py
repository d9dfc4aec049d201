"""The command line: `flp STAGE …`, each stage a program of its own with the same manners.

A mistake of the user's (`FLPError`) is one line on stderr and exit status 2; a stop by signal is 1; anything
else is a bug and keeps its traceback.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from flp.data.environments import specification
from flp.errors import FLPError, nearest
from flp.keys import Keys
from flp.layout import split_seeds
from flp.params import Params, json_schema, load_params
from flp.schema import AgentName

STAGES = {
    "download-dataset": "fetch, generate or copy a dataset, and check it",
    "pretrain-flow": "fit the behaviour flow to a dataset's actions",
    "invert-to-latent": "map the actions to latents and judge the flow",
    "offline-train": "train policies and critics offline, a batch of runs at once",
    "online-finetune": "continue in the environment",
    "report": "make the tables, figures and the page",
    "offline-sweep": "train what Figure 3, 4 or 5 of the paper needs beside the experiment's own runs",
    "figure": "make one of the paper's figures 2 to 5 or tables 1 and 2",
}
TOOLS = {
    "videos": "draw rollouts: flow, policy and fine-tuned policy side by side",
    "flows": "list the flows at hand: key, quality, size, whether the experiment needs them",
    "schema": "print the JSON schema of params.yaml",
    "check": "check params.yaml (and presets) and say what would be trained",
    "clean": "show and remove stale resume states, temporary files and outputs of other experiments",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `flp`; return the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    width = max(map(len, [*STAGES, *TOOLS]))
    if not argv or argv[0] in {"-h", "--help"}:
        print("usage: flp COMMAND [options]   (flp COMMAND --help says more)\n")
        for title, commands in (("stages, in order:", STAGES), ("tools:", TOOLS)):
            print(title)
            print("".join(f"  {name:<{width}}  {summary}\n" for name, summary in commands.items()))
        print("The whole pipeline: snakemake --cores all")
        return 0
    if argv[0] == "--version":
        from flp import __version__

        print(__version__)
        return 0
    command, rest = argv[0].replace("_", "-"), argv[1:]
    if command in STAGES:
        status: int = import_module(f"flp.stages.{command.replace('-', '_')}").main(rest)
        return status
    if command in TOOLS:
        return _guard(lambda: _tool(command, rest))
    print(f"flp: unknown command {argv[0]!r}{nearest(command, [*STAGES, *TOOLS])}", file=sys.stderr)
    return 2


class Job:
    """What a stage program was asked to do.

    Attributes:
        args: the parsed options.
        params: the experiment, or with `--dataset` its values for that dataset.
        keys: the experiment's keys.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        whole = load_params(args.params, *args.preset)
        self.keys = Keys(whole)
        self.params: Params = whole
        if dataset := getattr(args, "dataset", None):
            specification(dataset)
            self.params = self.keys.dataset_params(dataset)

    def require_agent(self) -> str:
        """`--agent`, checked.

        Raises:
            FLPError: no such agent.
        """
        agent: str = self.args.agent
        if agent not in (known := get_args(AgentName)):
            raise FLPError(f"--agent {agent}: unknown agent{nearest(agent, known)} (known: {', '.join(known)})")
        return agent

    def require_figure(self, known: Iterable[str]) -> str:
        """`--figure`, checked.

        Raises:
            FLPError: no such figure among the known.
        """
        figure: str = self.args.figure
        if figure not in known:
            raise FLPError(f"--figure {figure}: unknown{nearest(figure, known)} (known: {', '.join(known)})")
        return figure

    @property
    def seeds(self) -> list[int]:
        """`--seeds`, or every seed of the experiment."""
        return self.args.seeds or self.params.seeds


def run_stage(
    stage: str,
    options: Sequence[str],
    run: Callable[[Job], None],
    argv: Sequence[str] | None,
    doc: str | None,
) -> int:
    """Parse a stage's options, run it, and turn a user's mistake into one line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog=f"flp {stage}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in (*options, "params", "preset", "threads", "device", "profile"):
        parser.add_argument(f"--{name}", **_OPTIONS[name])
    args = parser.parse_args(argv)

    def guarded() -> int:
        # Until training saves its state on a signal, SIGTERM ends a stage as Ctrl-C does: cleaning up.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        job = Job(args)
        if args.profile is None:
            run(job)
        else:
            from flp.profile import profiled

            with profiled(Path(args.profile)):
                run(job)
        return 0

    return _guard(guarded, f"flp {stage}")


def _guard(run: Callable[[], int], name: str = "flp") -> int:
    from flp.stopping import STOP, InterruptedJobError

    try:
        return run()
    except InterruptedJobError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: stopped by a signal; run the same command again to go on", file=sys.stderr)
        return 1
    except FLPError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        print(
            f"{name}: error: not enough memory; train fewer runs together (offline.seeds_per_job, offline.tasks) "
            "or take a smaller dataset",
            file=sys.stderr,
        )
        return 2
    finally:
        STOP.signal = None  # it asked this command


def _is_out_of_memory(error: Exception) -> bool:
    """Whether it is Python's, a GPU's, or the error of PyTorch's allocator on a CPU, which has no class of its own."""
    names = {"MemoryError", "OutOfMemoryError"}
    return type(error).__name__ in names or "DefaultCPUAllocator: can't allocate memory" in str(error)


def _seed_list(text: str) -> list[int]:
    try:
        return split_seeds(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of seeds such as 0-1-2") from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


_OPTIONS: dict[str, dict[str, Any]] = {
    "dataset": {"required": True, "metavar": "NAME", "help": "an OGBench dataset, such as cube-single-play"},
    "seed": {"required": True, "type": int, "metavar": "N", "help": "the flow's random seed"},
    "agent": {"default": "flp", "metavar": "NAME", "help": "the algorithm (default: flp)"},
    "figure": {"required": True, "metavar": "NAME", "help": "figure2 to figure5, table1 or table2"},
    "seeds": {
        "type": _seed_list,
        "metavar": "0-1-2",
        "help": "the policies' seeds, trained together (default: all of params.yaml)",
    },
    "params": {
        "default": "params.yaml",
        "metavar": "FILE",
        "help": "the experiment (default: params.yaml)",
    },
    "preset": {
        "action": "append",
        "default": [],
        "metavar": "FILE",
        "help": "an overlay on --params, such as presets/cube-single.yaml; may be repeated",
    },
    "threads": {
        "type": _positive,
        "default": max(1, len(os.sched_getaffinity(0))),
        "metavar": "N",
        "help": "CPU threads and worker processes to use (default: every core)",
    },
    "device": {"default": "auto", "metavar": "NAME", "help": "auto, cpu, cuda or cuda:1 (default: auto)"},
    "profile": {"metavar": "DIR", "help": "write a trace for chrome://tracing or ui.perfetto.dev to DIR"},
}


def _tool(command: str, argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"flp {command}", description=TOOLS[command])
    if command == "schema":
        parser.parse_args(argv)
        print(json_schema(), end="")
        return 0
    if command == "clean":
        parser.add_argument("--yes", action="store_true", help="remove stale states and temporary files without asking")
        parser.add_argument("--outputs", action="store_true", help="with --yes: outputs of other experiments too")
    if command == "videos":
        parser.add_argument("--dataset", metavar="NAME", help="one of the experiment's datasets (default: all)")
        parser.add_argument("--agent", metavar="NAME", help="whose policies (default: flp, or else the first)")
        parser.add_argument("--device", **_OPTIONS["device"])
    parser.add_argument("--params", **_OPTIONS["params"])
    parser.add_argument("--preset", **_OPTIONS["preset"])
    args = parser.parse_args(argv)
    keys = Keys(load_params(args.params, *args.preset))
    if command == "check":
        jobs, online = list(keys.jobs()), list(keys.online_jobs())
        runs = sum(len(keys.runs(*job)) for job in jobs)
        flows = len(keys.params.datasets) * len(keys.params.seeds)
        print(
            f"{args.params} is valid: {len(keys.params.datasets)} datasets, {flows} flows, {runs} offline runs in "
            f"{len(jobs)} jobs, {sum(len(keys.online_runs(*job)) for job in online)} online runs in {len(online)} jobs"
        )
        return 0
    module = import_module(f"flp.{command}")
    status: int = module.command(keys, args)
    return status


if __name__ == "__main__":
    sys.exit(main())
