"""Takes the place of `python -m flp.stages.STAGE …` where FLP_STAND_IN names a log; see tests/workflow_support.py."""

import gc
import os
import pkgutil
import sys

_LOG = os.environ.get("FLP_STAND_IN")
_STAGE = next((part.removeprefix("flp.stages.") for part in sys.orig_argv[1:3] if part.startswith("flp.stages.")), "")
_TOOL = " ".join(sys.orig_argv[2:4]).removeprefix("flp.cli ")


def _stand_in(stage: str, argv: list[str], log: str) -> None:
    import csv
    import json
    import shutil
    import time
    import uuid
    from pathlib import Path

    sys.path.insert(0, os.environ["PYTHONPATH"].split(os.pathsep)[0])
    from flp.experiment.graph import graph
    from flp.experiment.keys import Keys
    from flp.params.loading import load_params
    from flp.system.forced import discard_if_forced
    from flp.system.layout import RUN_FILES

    given = dict(zip(argv[::2], argv[1::2], strict=True))
    words = [given.get(name) for name in ("--dataset", "--agent", "--figure")] if len(given) > 2 else ["report"]
    if "--seed" in given or "--seeds" in given:
        words.append("seed" + given.get("--seed", given.get("--seeds", "")))
    place = "/".join([stage, *filter(None, words)])
    artifact = graph(Keys(load_params(given["--params"])))[place]

    def fail(why: str, status: int = 1) -> None:
        print(why, flush=True)
        os._exit(status)

    for source in (source for sources in artifact.inputs.values() for source in sources):
        if not source.is_current():
            fail(f"{place}: its input {source.stage}/{source.name} is missing or stale")

    def write_rows(file: Path, columns: list[str]) -> None:
        row = {"dataset": "cube-single-play", "agent": "flp", "task": 1, "seed": 0, "phase": "offline", "episodes": 1}
        with open(file, "w", newline="") as handle:
            table = csv.DictWriter(handle, columns, extrasaction="ignore")
            table.writeheader()
            table.writerows(row | {"step": step, "success": step / 20} for step in (0, 10, 20))

    def note(word: str) -> None:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a") as file:
            file.write(f"{word} {place} {time.time()} {os.getpid()} {given['--threads']}\n")

    note("start")
    print(f"stand-in for {place}")
    if os.environ.get("FLP_STAND_IN_HALF", "nothing") in place:
        for file in map(Path, artifact.files[:1]):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("half")
    if os.environ.get("FLP_STAND_IN_SLOW", "nothing") in place:
        time.sleep(float(os.environ.get("FLP_STAND_IN_SECONDS", "600")))
    if os.environ.get("FLP_STAND_IN_FAIL", "nothing") in place:
        fail(f"{place}: told to fail", int(os.environ.get("FLP_STAND_IN_STATUS", "1")))
    discard_if_forced(Path(artifact.files[0]).parent, map(Path, artifact.runs))
    run_keys = {}
    for run in map(Path, artifact.runs):
        run_keys[run.name] = artifact.key
        if not run.exists():
            run.mkdir(parents=True)
            for name in RUN_FILES:
                (run / name).write_text(uuid.uuid4().hex)
    for other in Path(artifact.files[0]).parent.glob("task*") if artifact.runs else ():
        if str(other) not in artifact.runs:
            shutil.rmtree(other)
    same = os.environ.get("FLP_STAND_IN_SAME", "nothing") in place
    for path in map(Path, artifact.files):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        if path.name == "summary.csv":
            write_rows(temporary, ["dataset", "agent", "task", "seed", "phase", "step", "success", "episodes"])
            write_rows(path.with_name("curves.csv"), ["dataset", "agent", "phase", "step", "success"])
        elif path.name == "metrics.json":
            temporary.write_text(
                json.dumps({"cube-single-play": {"flp": {"offline": int(artifact.key[:4], 16) / 65536}}})
            )
        elif str(path) in artifact.manifests:
            temporary.write_text(json.dumps({"key": artifact.key, "format_version": 1, "runs": run_keys}))
        else:
            temporary.write_text(f"{place} {'as ever' if same else uuid.uuid4().hex}\n")
        os.replace(temporary, path)
    note("end")


def _without_slurm(modules=pkgutil.iter_modules):
    """Snakemake imports every plugin it finds, and Slurm's imports pandas: a part of every start, and mostly unused."""
    return lambda *args, **kwargs: (
        module for module in modules(*args, **kwargs) if not module.name.startswith("snakemake_executor_plugin_slurm")
    )


def _coarse(kept, utime=os.utime):
    """As on a file system that keeps times only so exactly; seconds."""

    def cut(path, times=None, **more):
        import time

        times = times or (time.time(),) * 2
        utime(path, tuple(when // kept * kept for when in times), **more)

    return cut


def keep_times():
    """Keep them as the environment says."""
    if "FLP_STAND_IN_SECONDS_KEPT" in os.environ:
        os.utime = _coarse(int(os.environ["FLP_STAND_IN_SECONDS_KEPT"]))


def heed_modes(access=os.access):
    """For root, too, let a file that nobody may write count as one, as for everyone else."""

    def honest(path, mode, **more):
        allowed = access(path, mode, **more)
        return allowed and not (mode & os.W_OK and not os.stat(path).st_mode & 0o222)

    if "FLP_STAND_IN_USER" in os.environ:
        os.access = honest


keep_times()
heed_modes()
if os.environ.get("FLP_STAND_IN_WARM") and sys.argv[0].endswith("/bin/snakemake"):
    from warm_snakemake import hand_over

    hand_over(os.environ["FLP_STAND_IN_WARM"])
if _LOG:
    gc.disable()  # a seventh of Snakemake's start, and none of these processes grows
if _LOG and "FLP_STAND_IN_SLURM" not in os.environ:
    pkgutil.iter_modules = _without_slurm()
if _LOG and os.environ.get("FLP_STAND_IN_FAIL") == _TOOL:
    print(f"{_TOOL}: told to fail", flush=True)
    os._exit(int(os.environ.get("FLP_STAND_IN_STATUS", "1")))
if _LOG and _STAGE:
    _stand_in(_STAGE, sys.argv[1:], _LOG)
    sys.stdout.flush()
    os._exit(0)
