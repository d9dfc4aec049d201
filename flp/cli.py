"""The command line: `flp STAGE …` and `flp TOOL …`, each command a program of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from flp.system.portability import prepare_process, run_printing

STAGES = {
    "download-dataset": "fetch, generate or copy a dataset, and check it",
    "pretrain-flow": "fit the behaviour flow to a dataset's actions",
    "invert-to-latent": "map the actions to latents and test the flow's quality",
    "offline-train": "train policies and critics offline, a batch of runs at once",
    "online-finetune": "continue in the environment",
    "report": "make the tables, figures and the page",
    "offline-sweep": "train what Figure 3, 4 or 5 of the paper needs in addition to the experiment's runs",
    "figure": "make one of the paper's figures 2 to 5 or tables 1 and 2",
}
TOOLS = {
    "check": "check params.yaml (and presets); report what would be trained, and roughly how long it takes",
    "bench": "measure this machine for two minutes: which settings are fastest, and how long the experiment takes",
    "flows": "list the flows of this checkout: key, quality, size, whether the experiment needs them",
    "videos": "film rollouts: flow, policy and fine-tuned policy side by side",
    "rollout": "roll out a trained policy: success and return with intervals",
    "export": "write a trained policy as one file that runs without flp (PyTorch or ONNX)",
    "compare": "compare two experiments' results, with paired intervals and differences in parameters",
    "watch": "show all running and finished jobs of this checkout on one screen",
    "clean": "show and remove stale resume states, temporary files and outputs of other experiments",
    "schema": "print the JSON schema of params.yaml",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `flp`; return the exit status."""
    prepare_process()
    return run_printing(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in {"-h", "--help"}:
        _help()
        return 0
    if argv[0] == "--version":
        from flp import __version__

        print(__version__)
        return 0
    command, rest = argv[0].replace("_", "-"), argv[1:]
    if command not in STAGES and command not in TOOLS:
        from flp.system.errors import nearest

        hint = nearest(command, [*STAGES, *TOOLS]) or "; flp --help lists them"
        print(f"flp: unknown command {argv[0]!r}{hint}", file=sys.stderr)
        return 2
    status: int = import_module(module_of(command)).main(rest)
    return status


def module_of(command: str) -> str:
    """The module whose `main` is a command."""
    room = "stages" if command in STAGES else "tools"
    return f"flp.{room}.{command.replace('-', '_')}"


def _help() -> None:
    width = max(map(len, [*STAGES, *TOOLS]))
    print("usage: flp COMMAND [options]   (flp COMMAND --help says more)\n")
    for title, commands in (("stages, in order:", STAGES), ("tools:", TOOLS)):
        print(title)
        print("".join(f"  {name:<{width}}  {summary}\n" for name, summary in commands.items()))
    print("The whole pipeline: snakemake --cores all")


if __name__ == "__main__":
    sys.exit(main())
