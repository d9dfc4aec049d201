# Only the manifest is declared: Snakemake deletes what it declares before a job starts, and runs that are finished
# shall stay when a task, a seed or a value of the sweep joins them. The stage writes the manifest last.
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
        * (60 + EXPERIMENT.dataset(w).offline.steps // 400),
    params:
        key=EXPERIMENT.key("offline_train"),
    shell:
        "(python -m flp.stages.offline_train --dataset {wildcards.dataset:q} --agent {wildcards.agent}"
        ' --seeds {wildcards.seeds} --params "$FLP_PARAMS" --threads {threads}) 2>&1 | keep {log:q}'


rule offline_train_all:
    input:
        EXPERIMENT.all("offline_train"),
    localrule: True
