"""What every stage program shares: its options, the experiment it reads, and how it ends.

A mistake of the user's (`FLPError`) is one line on stderr and exit status 2; a stop by signal is 1; anything
else is a bug and keeps its traceback.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from flp.data.environments import specification
from flp.experiment.keys import Keys
from flp.params.loading import Params, load_params
from flp.params.sections import AgentName
from flp.system.errors import FLPError, nearest
from flp.system.interpreter import in_place
from flp.system.layout import split_seeds
from flp.system.stopping import STOP, InterruptedJobError


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


def run_tool(
    tool: str,
    options: dict[str, dict[str, Any]],
    run: Callable[[Keys, argparse.Namespace], int],
    argv: Sequence[str] | None,
    doc: str | None,
) -> int:
    """Parse a tool's own options and those that name the experiment, and run it; return the exit status."""
    parser = argparse.ArgumentParser(
        prog=f"flp {tool}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, option in {**options, "params": OPTIONS["params"], "preset": OPTIONS["preset"]}.items():
        parser.add_argument(f"--{name}", **option)
    args = parser.parse_args(argv)

    def work() -> int:
        in_place(f"flp {tool}")
        return run(Keys(load_params(args.params, *args.preset)), args)

    return guarded(work)


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
        parser.add_argument(f"--{name}", **OPTIONS[name])
    args = parser.parse_args(argv)

    def work() -> int:
        # Until training saves its state on a signal, SIGTERM ends a stage as Ctrl-C does: cleaning up.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        in_place(f"flp {stage}")
        job = Job(args)
        if args.profile is None:
            run(job)
        else:
            from flp.system.profile import profiled

            with profiled(Path(args.profile)):
                run(job)
        return 0

    return guarded(work, f"flp {stage}")


def guarded(run: Callable[[], int], name: str = "flp") -> int:
    """Run a command; say in one line what the user can mend, and return the exit status."""
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


OPTIONS: dict[str, dict[str, Any]] = {
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
