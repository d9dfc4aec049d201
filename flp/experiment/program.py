"""What all stage programs share: their options, the experiment they read, and how they end.

A user's mistake (`FLPError`) is one line on stderr and exit status 2; a stop by signal is status 1; anything else is a
bug and keeps its traceback.
"""

from __future__ import annotations

import argparse
import atexit
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, get_args

from flp.experiment.interpreter import in_place
from flp.experiment.keys import Keys
from flp.params.fields import LARGEST_SEED
from flp.params.loading import Params, load_params
from flp.params.sections import AgentName
from flp.system.errors import FLPError, nearest, user_error
from flp.system.layout import split_seeds
from flp.system.portability import prepare_process, run_printing
from flp.system.stopping import STOP, InterruptedJobError, ignore_signals

BOARDS = ("tensorboard", "wandb")
NAMING = ("params", "preset", "config")  # options that name the experiment


class Job:
    """What a stage program was asked to do.

    Attributes:
        args: the parsed options.
        params: the experiment; with `--dataset` its values for that dataset. What trains needs an algorithm's values:
            `keys.agent_params`.
        keys: the experiment's keys.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        whole = experiment(args)
        if boards := {name: True for name in BOARDS if getattr(args, name, False)}:
            whole = whole.model_copy(update={"report": whole.report.model_copy(update=boards)})
        self.keys = Keys(whole)
        self.params: Params = whole
        if dataset := getattr(args, "dataset", None):
            whole.require_known(dataset)
            self.params = self.keys.dataset_params(dataset)

    def require(self, option: str, known: Iterable[str]) -> str:
        """The value of `--option`, which must be one of the known (`FLPError`)."""
        value: str = getattr(self.args, option)
        if value not in (known := tuple(known)):
            raise FLPError(f"--{option} {value}: unknown {option}{nearest(value, known)} (known: {', '.join(known)})")
        return value

    def require_agent(self) -> str:
        """`--agent`, checked as `require` does."""
        return self.require("agent", get_args(AgentName))

    @property
    def seeds(self) -> list[int]:
        """`--seeds`, or every seed of the experiment."""
        return self.args.seeds or self.params.seeds


def experiment(args: argparse.Namespace) -> Params:
    """The experiment given by `--params`, `--preset` and `--config`; raises `FLPError` as `load_params` does."""
    return load_params(args.params, *args.preset, given=args.config)


class Main(Protocol):
    """A program: called with its arguments, or None for the process's own."""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Run; return the exit status."""


def stage(name: str, options: Sequence[str], run: Callable[[Job], None], doc: str | None) -> Main:
    """The program of a stage: it parses options, runs, and turns a user's mistake into one line."""

    def work(args: argparse.Namespace) -> int:
        # Until training handles signals by saving its state, SIGTERM ends a stage as Ctrl-C does, with cleanup.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        job = Job(args)
        if args.profile is None:
            run(job)
        else:
            from flp.supervision.profile import profiled

            with profiled(Path(args.profile)):
                run(job)
        atexit.register(ignore_signals)
        return 0

    chosen = {option: OPTIONS[option] for option in (*options, *NAMING, "threads", "device", "profile")}
    return program(name, chosen, work, doc)


def tool(name: str, options: dict[str, Any], run: Callable[[Keys, argparse.Namespace], int], doc: str | None) -> Main:
    """The program of a tool: its own options, and those that name the experiment."""
    chosen = options | {option: OPTIONS[option] for option in NAMING}
    return program(name, chosen, lambda args: run(Keys(experiment(args)), args), doc)


def program(name: str, options: dict[str, Any], work: Callable[[argparse.Namespace], int], doc: str | None) -> Main:
    """A program with these options; those in capitals are positional, such as `POLICY`, which becomes `args.policy`."""

    def main(argv: Sequence[str] | None = None) -> int:
        prepare_process()
        return run_printing(lambda: parsed(argv))

    def parsed(argv: Sequence[str] | None) -> int:
        style = argparse.RawDescriptionHelpFormatter
        parser = argparse.ArgumentParser(prog=f"flp {name}", description=doc, formatter_class=style)
        for option, settings in options.items():
            if option.isupper():
                parser.add_argument(option.lower(), metavar=option, **settings)
            else:
                parser.add_argument(f"--{option}", *ALSO.get(option, ()), **settings)
        args = parser.parse_args(argv)

        def run() -> int:
            in_place(f"flp {name}")
            return work(args)

        return guarded(run, f"flp {name}")

    return main


def guarded(run: Callable[[], int], name: str = "flp") -> int:
    """Run a command, report in one line what the user can fix, and return the exit status."""
    try:
        return run()
    except InterruptedJobError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: stopped by a signal; run the same command again", file=sys.stderr)
        return 1
    except FLPError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if (explanation := user_error(error)) is None:
            raise
        print(f"{name}: error: {explanation}", file=sys.stderr)
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
        STOP.signal = None  # it was for this command


def _is_out_of_memory(error: Exception) -> bool:
    """Whether it is Python's error or PyTorch's; outside its allocator for GPUs that has no class of its own."""
    texts = "DefaultCPUAllocator: can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED"
    known = type(error).__name__ in {"MemoryError", "OutOfMemoryError"}
    return known or any(text in str(error) for text in texts)


def _seed_list(text: str) -> list[int]:
    try:
        seeds = split_seeds(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of seeds such as 0-1-2, each once") from None
    return [seed(str(one)) for one in seeds]


def positive(text: str) -> int:
    """A positive integer option; no count of seconds, cores or episodes is larger than a million."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    if int(text) > 10**6:
        raise argparse.ArgumentTypeError(f"{text} is more than a million")
    return int(text)


def seed(text: str) -> int:
    """A seed, as in the parameters."""
    if not (text.isdecimal() and text.isascii() and len(text) < 20 and int(text) <= LARGEST_SEED):
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed: a whole number from 0 to {LARGEST_SEED}")
    return int(text)


class Once(argparse.Action):
    """Several values after one option; given twice it is refused by the names that Snakemake knows.

    Snakemake would keep only the last.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Store the values."""
        before, seen = getattr(namespace, self.dest), f"{self.dest} by {option_string}"
        if hasattr(namespace, seen) and option_string != "--preset":
            parser.error(
                f"{option_string} is given twice, and Snakemake would keep only the last; give it once, with all its "
                "values after it"
            )
        setattr(namespace, seen, True)
        setattr(namespace, self.dest, [*before, *(values or ())])


ALSO = {"preset": ("--configfile",)}  # Snakemake's name
OPTIONS: dict[str, dict[str, Any]] = {
    "dataset": {
        "required": True,
        "metavar": "NAME",
        "help": "an OGBench dataset, such as cube-single-play, or one of tasks",
    },
    "seed": {"required": True, "type": seed, "metavar": "N", "help": "the flow's random seed"},
    "agent": {"default": "flp", "metavar": "NAME", "help": "the algorithm (default: flp)"},
    "figure": {
        "required": True,
        "metavar": "NAME",
        "help": "figure2 to figure5, table1 or table2; only figure3 to figure5 have sweeps",
    },
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
        "action": Once,
        "nargs": "+",
        "default": [],
        "metavar": "FILE",
        "help": "overlays on --params, such as presets/cube-single.yaml; --configfile is another name for it",
    },
    "config": {
        "action": Once,
        "nargs": "+",
        "default": [],
        "metavar": "KEY=VALUE",
        "help": "other values, as for Snakemake: 'offline={alpha: 0.3}'",
    },
    "threads": {
        "type": positive,
        "default": max(1, len(os.sched_getaffinity(0))),
        "metavar": "N",
        "help": "CPU threads and worker processes to use (default: every core)",
    },
    "cores": {
        "type": positive,
        "default": max(1, len(os.sched_getaffinity(0))),
        "metavar": "N",
        "help": "CPU cores that the experiment will have, as snakemake's --cores (default: every core)",
    },
    "device": {"default": "auto", "metavar": "NAME", "help": "auto, cpu, cuda or cuda:1 (default: auto)"},
    "tensorboard": {
        "action": "store_true",
        "help": "write live curves to results/tensorboard, as report.tensorboard: true does",
    },
    "wandb": {"action": "store_true", "help": "send live curves to Weights & Biases, as report.wandb: true does"},
    "profile": {"metavar": "DIR", "help": "write a trace for chrome://tracing or ui.perfetto.dev to DIR"},
}
