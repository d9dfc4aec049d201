# Only the manifest is declared: Snakemake deletes what it declares before a job starts, and runs that are finished
# shall stay when a task, a seed or a value of the sweep joins them. The stage writes the manifest last.
rule offline_train:
    """Train the runs (tasks × seeds × sweep) of one dataset and agent together."""
    input:
        unpack(inputs_of("offline_train")),
    output:
        manifest=layout.OFFLINE + "/manifest.json",
    log:
        log_file("offline_train", "{dataset}/{agent}/seed{seeds}"),
    conda:
        "../envs/flp.yaml"
    threads: lambda w: min(16, len(artifact_of("offline_train", w).runs))
    resources:
        gpu=GPUS,
        mem_mb=lambda w: 8000 + 500 * len(artifact_of("offline_train", w).runs),
        runtime=lambda w, attempt: attempt
        * (60 + dataset_params(w).offline.steps // 400),
    params:
        key=key_of("offline_train"),
    shell:
        "(python -m flp.stages.offline_train --dataset {wildcards.dataset:q} --agent {wildcards.agent}"
        " --seeds {wildcards.seeds} --params {PARAMS:q} --threads {threads}) 2>&1 | tee -i {log:q}"


rule offline_train_all:
    input:
        first_files("offline_train"),
    localrule: True
