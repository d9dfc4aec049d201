"""Keys: everything an artifact is made from, as one hash, so that file times need not be trusted.

A key covers the stage's own parameters, the fingerprint of the source it uses, its wildcards and its inputs' keys. Two
checkouts with equal keys hold the same artifact; a changed key makes exactly the artifacts downstream of it stale.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from flp.experiment import variants
from flp.experiment.fingerprint import built_on, fingerprint
from flp.own.splitting import own_files
from flp.params.loading import Params
from flp.params.online import CHOICE
from flp.params.run import Run, SweepJob, TrainingJob
from flp.params.sections import OFFLINE_ONLY, ONLINE_ONLY, offline_steps, starts_from_flow
from flp.params.unread import unread
from flp.system import layout
from flp.system.artifacts import read_json
from flp.system.errors import FLPError
from flp.system.hashing import contents, hash_of

_TRAINED = {"table1": "offline", "table2": "online"}
# The module that computes and draws each of the paper's figures and tables.
FIGURE_SOURCES = {
    "figure2": "flp.paper.figure2",
    **dict.fromkeys(("figure3", "figure4", "figure5"), "flp.paper.sweep_figures"),
    **dict.fromkeys(layout.TABLES, "flp.paper.paper_tables"),
}


class Keys:
    """The keys of every artifact of an experiment."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self._datasets: dict[str, Params] = {}
        self._contents: dict[str, list[str]] = {}
        self._agents: dict[tuple[str, str], Params] = {}

    def dataset_params(self, dataset: str) -> Params:
        """The parameters of one dataset, with its overrides."""
        if dataset not in self._datasets:
            self._datasets[dataset] = self.params.for_dataset(dataset)
        return self._datasets[dataset]

    def agent_params(self, dataset: str, agent: str) -> Params:
        """The parameters of one algorithm on one dataset, with its own values."""
        if (dataset, agent) not in self._agents:
            self._agents[dataset, agent] = self.dataset_params(dataset).for_agent(agent)
        return self._agents[dataset, agent]

    def data(self, dataset: str) -> str:
        """The key of `data/{dataset}.npz`."""
        params, content = self.dataset_params(dataset), self.content(dataset)
        own = params.tasks.get(dataset)
        section = params.download.keyed() if own is None else own.shaping_data()
        if content:  # the files' names and places do not matter
            section |= {"path": None, "minari": None, "content": content}
        return hash_of("download_dataset", fingerprint("flp.stages.download_dataset"), section, dataset)

    def content(self, dataset: str) -> list[str]:
        """The checksums of the user's files that the data are made from; empty for generated or downloaded data.

        If the files are missing but the data are there, they are the recorded checksums.
        """
        if dataset not in self._contents:
            params = self.dataset_params(dataset)
            files, own = list[Path](), params.tasks.get(dataset)
            if own is not None:
                files = own.source(dataset).files()
            elif params.download.source == "path":
                files = own_files(params.download.path or "")
            self._contents[dataset] = contents(files) or self._recorded_content(dataset)
        return self._contents[dataset]

    def _recorded_content(self, dataset: str) -> list[str]:
        """The checksums of what the existing data were made from, if that is what the parameters ask for."""
        params, manifest = self.dataset_params(dataset), Path(layout.DATA.format(dataset=dataset) + ".json")
        own = params.tasks.get(dataset)
        if (own is None and params.download.source != "path") or not manifest.exists():
            return []
        asked = {"path": params.download.path} if own is None else {"data": own.data.model_dump(mode="json")}
        try:
            recorded = read_json(manifest)
            return list(recorded["content"]) if asked.items() <= recorded["parameters"].items() else []
        except (FLPError, KeyError, TypeError, AttributeError):
            return []

    def flow(self, dataset: str, seed: int) -> str:
        """The key of one flow."""
        section = self.dataset_params(dataset).flow.keyed()
        source = fingerprint("flp.stages.pretrain_flow")
        return hash_of("pretrain_flow", source, section, seed, self.data(dataset))

    def latent(self, dataset: str, seed: int) -> str:
        """The key of one flow's latents and quality report."""
        section = self.dataset_params(dataset).invert.keyed()
        source = fingerprint("flp.stages.invert_to_latent")
        return hash_of("invert_to_latent", source, section, self.flow(dataset, seed))

    def inversion(self, dataset: str, seed: int) -> str:
        """The key of the latents alone, which training reads: judging the flow differently does not change them."""
        return hash_of("inversion", fingerprint("flp.flow.inversion"), self.flow(dataset, seed))

    def offline_run(self, dataset: str, agent: str, run: Run) -> str:
        """The key of one run, which does not depend on the runs that train with it."""
        params = self.agent_params(dataset, agent)
        section = params.offline.keyed() | {"steps": offline_steps(agent, params.offline)}
        if agent in ONLINE_ONLY:  # no step of offline training, no schedule of its rate
            section |= {"schedule": None}
        if agent == "flp":
            section |= {"alpha": run.alpha, "candidates": run.candidates}
        else:
            for name in unread(agent, judged_by_values=self.is_estimated(dataset)):
                del section[name]
            baselines = params.offline.baselines.model_dump(mode="json")
            section["own"] = baselines.get(agent)
            if others := {name: own for name, own in baselines.items() if name in built_on(agent)}:
                section["built_on"] = others
        return hash_of(
            "offline_train",
            fingerprint("flp.stages.offline_train", f"flp.agents.{agent}"),
            section,
            params.evaluation.keyed(),
            agent,
            [run.task, run.seed, *([run.variant] if run.variant else [])],  # everything that names its random streams
            *([params.tasks[dataset].success] if dataset in params.tasks else []),
            *([params.invert.likelihood_samples] if self.is_estimated(dataset) else []),
            self.inversion(dataset, run.seed) if self.reads_flow(dataset, agent) else self.data(dataset),
        )

    def reads_flow(self, dataset: str, agent: str) -> bool:
        """Whether an algorithm's runs need flow and latents: for the policies, or for estimates without a simulator."""
        return self.is_estimated(dataset) or starts_from_flow(agent, self.agent_params(dataset, agent).offline)

    def is_estimated(self, dataset: str) -> bool:
        """Whether policies are judged by estimates from logged episodes, without a simulator."""
        own = self.params.tasks.get(dataset)
        return own is not None and own.environment is None

    def online_run(self, dataset: str, agent: str, run: Run) -> str:
        """The key of one fine-tuned run."""
        section = self.agent_params(dataset, agent).online.keyed()
        if agent in ONLINE_ONLY:  # the rate is of pretrained policies
            section |= {"learning_rate": None}
        if agent != "flp":
            section = {name: value for name, value in section.items() if name not in CHOICE}
        source = fingerprint("flp.stages.online_finetune", f"flp.agents.{agent}")
        return hash_of("online_finetune", source, section, self.offline_run(dataset, agent, run))

    def offline_job(self, dataset: str, agent: str, seeds: list[int]) -> str:
        """The key of the runs that train together."""
        return self.job_of(dataset, agent, self.runs(dataset, agent, seeds))

    def job_of(self, dataset: str, agent: str, runs: list[Run]) -> str:
        """The key of an offline job of these runs."""
        return hash_of([self.offline_run(dataset, agent, run) for run in runs])

    def online_job(self, dataset: str, agent: str, seeds: list[int]) -> str:
        """The key of the runs that are fine-tuned together."""
        runs = self.online_runs(dataset, agent, seeds)
        return hash_of([self.online_run(dataset, agent, run) for run in runs])

    def runs(self, dataset: str, agent: str, seeds: list[int]) -> list[Run]:
        """The runs of one offline job: tasks × seeds, and for FLP the sweep's values."""
        offline = self.agent_params(dataset, agent).offline
        swept: list[dict[str, Any]] = [{"variant": "", "alpha": offline.alpha, "candidates": offline.candidates}]
        if agent == "flp":
            swept += variants.variants(offline, "alpha", list(offline.sweep.alpha))
            swept += variants.variants(offline, "candidates", list(offline.sweep.candidates))
        return [Run(task, seed, **variant) for seed in seeds for task in offline.tasks for variant in swept]

    def extra_runs(self, dataset: str, figure: str, seeds: list[int]) -> list[Run]:
        """The runs that a figure needs in addition to the experiment's own; none if those are all it compares."""
        offline = self.agent_params(dataset, "flp").offline
        swept = variants.variants(offline, variants.QUANTITY[figure], variants.extra_values(figure, offline))
        return [Run(task, seed, **variant) for seed in seeds for task in offline.tasks for variant in swept]

    def figure_runs(self, dataset: str, figure: str, seeds: list[int]) -> dict[Path, Run]:
        """The runs that a figure compares, by their folders."""
        quantity, job = variants.QUANTITY[figure], TrainingJob(dataset, "flp", seeds)
        values = variants.values(figure, self.agent_params(dataset, "flp").offline)
        places = [(job.folder(layout.OFFLINE), run) for run in self.runs(*job)]
        for lender in variants.LENDERS[figure]:
            folder = SweepJob(dataset, lender, seeds).folder
            places += [(folder, run) for run in self.extra_runs(dataset, lender, seeds)]
        return {
            Path(folder, run.name): run
            for folder, run in places
            if getattr(run, quantity) in values and run.variant.partition("=")[0] in ("", quantity)
        }

    def online_runs(self, dataset: str, agent: str, seeds: list[int]) -> list[Run]:
        """The runs of one online job; sweeps are not fine-tuned."""
        params = self.agent_params(dataset, agent)
        tasks = params.online.tasks or params.offline.tasks
        return [run for run in self.runs(dataset, agent, seeds) if run.task in tasks and not run.variant]

    def agents(self, dataset: str) -> list[str]:
        """The algorithms with policies on a dataset; those that only learn online need online steps."""
        asked = self.dataset_params(dataset).offline.agents
        return [agent for agent in asked if agent not in ONLINE_ONLY or self.learns_online(dataset, agent)]

    def jobs(self) -> Iterator[TrainingJob]:
        """Every offline job."""
        for dataset in self.params.datasets:
            together = self.dataset_params(dataset).offline.seeds_per_job
            for agent in self.agents(dataset):
                for seeds in layout.seed_groups(self.params.seeds, together):
                    yield TrainingJob(dataset, agent, seeds)

    def online_jobs(self) -> Iterator[TrainingJob]:
        """Every online job."""
        return (job for job in self.jobs() if self.learns_online(job.dataset, job.agent))

    def learns_online(self, dataset: str, agent: str) -> bool:
        """Whether an algorithm can learn online, is given online steps, and has a simulator to take them in."""
        steps = self.agent_params(dataset, agent).online.steps
        return steps > 0 and agent not in OFFLINE_ONLY and not self.is_estimated(dataset)

    @cached_property
    def report(self) -> str:
        """The key of the report."""
        references = {name: task.model_dump(mode="json")["reference"] for name, task in self.params.tasks.items()}
        return hash_of(
            "report", fingerprint("flp.stages.report"), self.params.report.keyed(), references, *self.reported()
        )

    def reported(self) -> list[list[str]]:
        """The keys of everything that a report or a table shows."""
        return [
            [self.latent(d, s) for d in self.params.datasets for s in self.params.seeds],
            [self.offline_job(*job) for job in self.jobs()],
            [self.online_job(*job) for job in self.online_jobs()],
        ]

    def figure(self, figure: str) -> str:
        """The key of one of the paper's figures or tables: of what it shows, and of the source that draws it."""
        source = fingerprint(FIGURE_SOURCES[figure])
        if figure == "figure2":
            return hash_of("figure", figure, source, self.params.figure2.keyed())
        section = self.params.report.keyed() | {"title": None}  # the page's
        if figure in layout.TABLES:
            return hash_of("figure", figure, source, section, *TableKeys(self.params, figure).reported())
        compared = []
        for dataset, agent, seeds in self.figure_jobs():
            runs = self.figure_runs(dataset, figure, seeds).values()
            compared.append(sorted(self.offline_run(dataset, agent, run) for run in runs))
        implied = [
            variants.is_implied(figure, self.agent_params(job.dataset, "flp").offline) for job in self.figure_jobs()
        ]
        return hash_of("figure", figure, source, section, compared, implied)

    def nothing_in(self, figure: str) -> str | None:
        """Why a figure or table would be empty; None if it would not."""
        if figure == "figure2":  # a toy experiment
            return None
        if figure in layout.TABLES:
            jobs, shown = TableKeys(self.params, figure).jobs(), f"policies trained {_TRAINED[figure]}"
        else:
            jobs, shown = self.figure_jobs(), "FLP"
        if any(True for _ in jobs):
            return None
        return f"{figure} shows {shown} on OGBench's datasets, of which there are none here: see datasets and agents"

    def figure_jobs(self) -> Iterator[TrainingJob]:
        """The offline jobs that Figures 3 to 5 are about: FLP's on OGBench's tasks."""
        return (job for job in self.jobs() if job.agent == "flp" and job.dataset not in self.params.tasks)


class TableKeys(Keys):
    """The part of an experiment that one of the paper's tables shows: no sweeps, and for Table 1 nothing online."""

    def __init__(self, params: Params, table: str) -> None:
        super().__init__(params)
        self.online = table == "table2"

    def jobs(self) -> Iterator[TrainingJob]:
        """The offline jobs that the table shows: without algorithms that learn only online (Table 1) or offline (2)."""
        hidden = OFFLINE_ONLY if self.online else ONLINE_ONLY
        return (job for job in super().jobs() if job.agent not in hidden and job.dataset not in self.params.tasks)

    def online_jobs(self) -> Iterator[TrainingJob]:
        """The online jobs that the table shows: none for Table 1."""
        return super().online_jobs() if self.online else iter(())

    def runs(self, dataset: str, agent: str, seeds: list[int]) -> list[Run]:
        """The runs of one offline job, without those of a sweep."""
        return [run for run in super().runs(dataset, agent, seeds) if not run.variant]
