# Only the manifest, which is written last, is declared: Snakemake deletes declared outputs before a job starts, and
# finished runs must stay when a task, a seed or a value of the sweep is added.
rule offline_train:
    """Train the runs (tasks × seeds × sweep) of one dataset and agent together."""
    input:
        unpack(EXPERIMENT.inputs("offline_train")),
    output:
        manifest=f"{layout.OFFLINE}/manifest.json",
    log:
        log_file("offline_train", "{dataset}/{agent}/seed{seeds}"),
    conda:
        "../envs/flp.yaml"
    threads: lambda w: min(MOST_THREADS, EXPERIMENT.runs("offline_train")(w))
    resources:
        gpu=GPUS,
        mem_mb=lambda w: 8000 + 500 * EXPERIMENT.runs("offline_train")(w),
        runtime=lambda w, attempt: attempt
        * (60 + EXPERIMENT.agent(w).offline.steps // 400),
    params:
        key=EXPERIMENT.key("offline_train"),
    shell:
        "(python -m flp.stages.offline_train --dataset {wildcards.dataset:q} --agent {wildcards.agent}"
        ' --seeds {wildcards.seeds} --params "$FLP_PARAMS" --threads {threads}) 2>&1 | keep {log:q}'


rule offline_train_all:
    input:
        EXPERIMENT.all("offline_train"),
    localrule: True
