"""Paths of all artifacts, in one place for Snakemake, DVC, the stages and the report.

The patterns are Snakemake's: `{dataset}`, `{seed}`, `{agent}` and `{seeds}` are wildcards. `{seeds}` names the
seeds that train together in one job, such as `0` or `0-1-2-3`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flp.system.errors import FLPError

DATA = "data/{dataset}"
FLOW = "results/{dataset}/flow/model/seed{seed}/flow"
QUALITY = "results/{dataset}/flow/quality/seed{seed}"
LATENT = "results/{dataset}/latent/seed{seed}/latent"
OFFLINE = "results/{dataset}/offline/{agent}/seed{seeds}"
ONLINE = "results/{dataset}/online/{agent}/seed{seeds}"
RESULTS = Path("results")
REPORT = "results/report"
# Curves for TensorBoard, in the same layout as the results; no stage reads them and DVC does not version them.
BOARDS = Path("results/tensorboard")
WANDB = Path("results/wandb")  # the client's own name for its folder
# Runs that a figure of the paper needs in addition to the experiment's own: `{figure}` is figure3, figure4 or figure5.
SWEEP = "results/{dataset}/sweep/{figure}/seed{seeds}"
FIGURE = "results/figures/{figure}"
VIDEOS = "results/videos/{dataset}/{agent}"
# What a killed job needs to resume. Neither Snakemake nor DVC declares it, so neither deletes it.
RESUME = Path(".flp/resume")
# Finished runs whose task or value of a sweep is not asked for at the moment, in the same layout as the results.
SPARE = Path(".flp/spare")
# Of a name with joined seeds. File systems allow 255 bytes, some of which temporary files and Slurm's log folders add.
MOST_CHARACTERS = 200

DATA_SUFFIXES = (".npz", "-val.npz", ".json")
FLOW_SUFFIXES = (".safetensors", ".json", ".csv", ".md")
QUALITY_FILES = ("quality.json", "quality.md", "latent.png")
LATENT_SUFFIXES = (".safetensors", ".json")
RUN_FILES = ("policy.safetensors", "evaluations.csv", "log.csv", "policy.json")  # of each run; the manifest is last
FIGURES = ("figure2", "figure3", "figure4", "figure5")
TABLES = ("table1", "table2")
# The numbers are next to the picture; the manifest, which holds the key, is written last.
FIGURE_SUFFIXES = (".svg", ".csv", ".json")
TABLE_SUFFIXES = (".html", ".md", ".csv", ".json")


def siblings(folder: Path) -> list[Path]:
    """The folders of the same algorithm's jobs with other seeds, which may hold finished runs of this job."""
    return sorted(other for other in folder.parent.glob("seed*") if other != folder)


def join_seeds(seeds: Sequence[int]) -> str:
    """`[0, 1]` → `0-1`, the seeds' part of a path.

    Raises:
        FLPError: too many for the name of a folder.
    """
    joined = "-".join(map(str, seeds))
    if len(joined) > MOST_CHARACTERS:
        fit = (MOST_CHARACTERS + 1) // (len(str(max(seeds))) + 1)
        raise FLPError(
            f"{len(seeds)} seeds in one job make a folder name of {len(joined)} characters, more than "
            f"{MOST_CHARACTERS}; train {fit} together (offline.seeds_per_job, or --seeds)"
        )
    return joined


def split_seeds(text: str) -> list[int]:
    """`0-1` → `[0, 1]`; raises `ValueError` for anything else, repeats included."""
    seeds = [int(part) for part in text.split("-")]
    if "-".join(map(str, dict.fromkeys(seeds))) != text:
        raise ValueError(text)
    return seeds


def seed_groups(seeds: Sequence[int], size: int) -> list[list[int]]:
    """Cut the seeds, in their order, into the groups that train together."""
    return [list(seeds[start : start + size]) for start in range(0, len(seeds), size)]


def figure_files(figure: str) -> list[str]:
    """The files of one of the paper's figures or tables, its manifest last."""
    suffixes = TABLE_SUFFIXES if figure in TABLES else FIGURE_SUFFIXES
    return [FIGURE.format(figure=figure) + suffix for suffix in suffixes]


def sweep_folders(dataset: str, agent: str, seeds: Sequence[int]) -> list[Path]:
    """The folders of an agent's runs that figures need in addition to the experiment's; only FLP is swept."""
    figures = FIGURES if agent == "flp" else ()
    return [Path(SWEEP.format(dataset=dataset, figure=figure, seeds=join_seeds(seeds))) for figure in figures]


def exact(value: float) -> str:
    """A number as a name, as short as is exact: `3`, `0.1`, `0.10000001`."""
    short = f"{value:g}"
    return short if float(short) == value else str(value)


def run_name(task: int, seed: int, variant: str = "") -> str:
    """The folder of one run inside its job's: `task1_seed0`, or `task1_seed0_alpha=3` in a sweep."""
    return f"task{task}_seed{seed}" + (f"_{variant}" if variant else "")


def resume_folder(stage: str, key: str) -> Path:
    """Where a job with this key keeps its resume state."""
    return RESUME / stage / key


def spare_folder(folder: Path) -> Path:
    """Where a job's finished runs are put while nothing asks for them."""
    return SPARE / folder.relative_to(folder.anchor)
