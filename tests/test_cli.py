"""The command line's manners: help that helps, and one line for every mistake."""

import importlib

import pytest
import torch
import yaml

from flp.cli import STAGES, TOOLS, main
from flp.experiment.keys import OFFLINE_ONLY
from flp.experiment.program import stage as program

MAZE = "pointmaze-medium-navigate"
WITH_DATASET = [stage for stage in STAGES if stage not in ("report", "figure")]
OPTIONS = {
    "pretrain-flow": ["--seed", "0"],
    "invert-to-latent": ["--seed", "0"],
    "offline-sweep": ["--figure", "figure4"],
    "figure": ["--figure", "figure2"],
}


def arguments(stage):
    dataset = ["--dataset", MAZE] if stage in WITH_DATASET else []
    return dataset + OPTIONS.get(stage, [])


@pytest.fixture
def project(request, tmp_path, monkeypatch):
    """An empty project with the default parameters; a function writes changed ones."""
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((request.config.rootpath / "params.yaml").read_text())

    def write(**sections):
        for section, changes in sections.items():
            values[section] = values[section] | changes if isinstance(changes, dict) else changes
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))

    write()
    return write


def refusal(capsys, argv):
    """Run it; it must fail with exactly one line on stderr, which is returned."""
    try:
        status = main(argv)
    except SystemExit as error:
        status = error.code
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert status != 0
    assert "Traceback" not in captured.err
    assert lines, "nothing was said"
    return lines[-1] if lines[0].startswith("usage:") else "".join(lines)


def test_help_names_every_command(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in [*STAGES, *TOOLS])


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_explains_itself(stage, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([stage, "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert importlib.import_module(f"flp.stages.{stage.replace('-', '_')}").__doc__.splitlines()[0] in text
    assert "--params" in text and "default" in text


def test_an_unknown_command_gets_the_nearest(capsys):
    assert "did you mean 'pretrain-flow'" in refusal(capsys, ["pretrain-flows"])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"offline": {"alhpa": 1.0}}, ["offline.alhpa", "did you mean 'alpha'"]),
        ({"offline": {"candidates": 0}}, ["offline.candidates"]),
        ({"flow": {"steps": -5}}, ["flow.steps"]),
        ({"flow": {"solver": "heunn"}}, ["flow.solver", "did you mean 'heun'"]),
        ({"datasets": ["pointmaze-medium-navigat"]}, ["datasets", "did you mean 'pointmaze-medium-navigate'"]),
        ({"seeds": []}, ["seeds"]),
        ({"offline": {"tasks": [6]}}, ["offline.tasks"]),
        ({"evaluation": {"episodes": "many"}}, ["evaluation.episodes"]),
    ],
)
def test_bad_parameters_are_one_line_in_every_stage(stage, change, expected, project, tmp_path, capsys):
    project(**change)
    line = refusal(capsys, [stage, *arguments(stage)])
    assert all(part in line for part in ["params.yaml", *expected]), line
    assert [p.name for p in tmp_path.iterdir()] == ["params.yaml"], "something was half-written"


@pytest.mark.parametrize("stage", WITH_DATASET)
def test_an_unknown_dataset_is_one_line(stage, project, capsys):
    line = refusal(capsys, [stage, "--dataset", "cube-singel-play", *OPTIONS.get(stage, [])])
    assert "did you mean 'cube-single-play'" in line


@pytest.mark.parametrize("stage", ["pretrain-flow", "invert-to-latent", "offline-train", "online-finetune"])
def test_a_missing_input_names_the_file_and_the_remedy(stage, project, capsys):
    line = refusal(capsys, [stage, *arguments(stage), "--threads", "1"])
    assert "pointmaze-medium-navigate" in line


def test_a_missing_parameter_file_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "params.yaml" in refusal(capsys, ["check"])


def test_an_unknown_agent_is_one_line(project, capsys):
    line = refusal(capsys, ["offline-train", "--dataset", MAZE, "--agent", "fqll"])
    assert "did you mean 'fql'" in line


@pytest.mark.parametrize("agent", OFFLINE_ONLY)
def test_an_agent_that_learns_offline_only_is_told_from_the_others(agent, project, capsys):
    line = refusal(capsys, ["online-finetune", "--dataset", MAZE, "--agent", agent])
    assert f"--agent {agent} learns offline only; those that learn online too are flp, iql, rebrac" in line
    assert "critic" not in line  # most of them have one


@pytest.mark.parametrize("seeds", ["0-0", "0-1-0", "00", "0-01", "1_0", " 1", "0-", "٣"])
def test_seeds_are_named_in_one_way_only(project, capsys, seeds):
    """Else one folder has two runs, or one run two folders."""
    assert "is not a list of seeds" in refusal(capsys, ["offline-train", "--dataset", MAZE, f"--seeds={seeds}"])


@pytest.mark.parametrize("seed", ["-1", "1.5", str(2**31), "9" * 23])
@pytest.mark.parametrize("command", [["pretrain-flow", "--dataset", MAZE], ["rollout", "run"]])
def test_a_seed_is_what_the_parameters_take(project, capsys, tmp_path, command, seed):
    assert "is not a seed: a whole number from 0 to 2147483647" in refusal(capsys, [*command, f"--seed={seed}"])
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_seeds_of_a_job_are_as_large_as_any(project, capsys):
    assert "is not a seed" in refusal(capsys, ["offline-train", "--dataset", MAZE, f"--seeds=0-{2**31}"])


def test_too_many_seeds_for_one_job_are_one_line(project, capsys, tmp_path):
    seeds = list(range(10**7, 10**7 + 30))
    project(seeds=seeds)
    for given in ([], ["--seeds", "-".join(map(str, seeds))]):
        line = refusal(capsys, ["offline-train", "--dataset", MAZE, *given])
        assert "30 seeds in one job" in line and "--seeds" in line
    assert [p.name for p in tmp_path.iterdir()] == ["params.yaml"]


def test_check_counts_what_would_be_trained(project, capsys):
    assert main(["check"]) == 0
    assert "1 dataset, 1 flow, 5 offline runs in 1 job," in capsys.readouterr().out


def test_overlays_are_named_as_snakemake_names_them(project, tmp_path, capsys):
    overlays = {"seeds.yaml": {"seeds": [0, 1]}, "tasks.yaml": {"offline": {"tasks": [1]}}}
    for name, values in overlays.items():
        (tmp_path / name).write_text(yaml.safe_dump(values))
    for given in (["--preset", *overlays], ["--configfile", *overlays], [f"--preset={name}" for name in overlays]):
        assert main(["check", *given]) == 0
        assert "1 dataset, 2 flows, 2 offline runs in 2 jobs," in capsys.readouterr().out


def test_values_are_given_as_snakemake_takes_them(project, tmp_path, capsys):
    (tmp_path / "seeds.yaml").write_text(yaml.safe_dump({"seeds": [0, 1], "offline": {"tasks": [1]}}))
    assert main(["check", "--preset", "seeds.yaml", "--config", "offline={tasks: [1, 2]}", "seeds=[3]"]) == 0
    assert "1 dataset, 1 flow, 2 offline runs in 1 job," in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["offline"], ["--config offline: takes KEY=VALUE", "offline={alpha: 0.3}"]),
        (["offline={alpha: 0.3"], ["--config offline={alpha: 0.3: is not valid YAML"]),
        (["seeds=[0]", "seeds=[1]"], ["'seeds' is given twice"]),
        (["offline={alpa: 0.3}"], ["--config", "offline.alpa", "alpha"]),
        (["ofline={alpha: 0.3}"], ["ofline", "offline"]),
        (["offline.alpha=3"], ["offline.alpha: unknown key; write offline={alpha: 3}"]),
        (["offline.baselines.fql.alpha=3"], ["write offline={baselines: {fql: {alpha: 3}}}"]),
        (["offline={alpha: !!python/name:os.system }"], ["is not valid YAML"]),
    ],
)
def test_a_mistake_in_a_given_value_is_said(project, capsys, given, told):
    line = refusal(capsys, ["check", "--config", *given])
    assert all(part in line for part in told), line


@pytest.mark.parametrize("option", ["--configfile", "--config"])
def test_what_snakemake_would_half_ignore_is_refused(capsys, tmp_path, option):
    """Of an option that is given twice it keeps the last; the check must not be of another experiment."""
    overlay = tmp_path / "o.yaml"
    overlay.write_text("report: {title: T}")
    value = str(overlay) if option == "--configfile" else "seeds=[0]"
    assert f"{option} is given twice, and Snakemake would keep only the last" in refusal(
        capsys, ["check", option, value, option, value]
    )


def test_a_preset_may_be_followed_by_a_file_in_snakemakes_way(capsys, tmp_path):
    overlay = tmp_path / "o.yaml"
    overlay.write_text("report: {title: T}")
    assert main(["check", "--preset", str(overlay), "--configfile", str(overlay)]) == 0
    assert "the experiment is valid" in capsys.readouterr().out


def test_the_schema_in_the_workflow_is_the_program_s(request, capsys):
    assert main(["schema"]) == 0
    committed = request.config.rootpath / "workflow/schemas/params.schema.json"
    assert capsys.readouterr().out == committed.read_text()


def too_large(job):
    torch.empty(2**45)  # 128 TiB


def as_on_a_gpu(job):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def as_in_a_gpu_s_library(job):
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def as_outside_its_allocator(job):
    raise torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later")


@pytest.mark.parametrize("work", [too_large, as_on_a_gpu, as_in_a_gpu_s_library, as_outside_its_allocator])
def test_too_little_memory_is_one_line(project, signals, capsys, work):
    assert program("report", (), work, None)([]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("flp report: error: not enough memory; train fewer runs together")


def test_other_errors_of_pytorch_keep_their_traceback(project, signals):
    with pytest.raises(RuntimeError, match="size of tensor"):
        program("report", (), lambda job: torch.ones(2) + torch.ones(3), None)([])


@pytest.mark.parametrize("stage", ["offline-train", "online-finetune", "offline-sweep", "pretrain-flow"])
@pytest.mark.parametrize("device", ["foo", "cuda:77"])
def test_a_device_that_is_not_there_is_one_line_and_leaves_nothing(project, capsys, tmp_path, stage, device):
    assert f"--device {device}: " in refusal(capsys, [stage, *arguments(stage), "--device", device])
    assert not list(tmp_path.glob(".flp/resume/*"))
