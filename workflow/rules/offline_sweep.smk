# Made when a figure needs it: not part of `all`. As in offline_train, only the manifest is declared.
rule offline_sweep:
    """Train the runs that a figure needs in addition to the experiment's own."""
    input:
        unpack(EXPERIMENT.inputs("offline_sweep")),
    output:
        manifest=f"{layout.SWEEP}/manifest.json",
    log:
        log_file("offline_sweep", "{dataset}/{figure}/seed{seeds}"),
    conda:
        "../envs/flp.yaml"
    threads: lambda w: min(MOST_THREADS, EXPERIMENT.runs("offline_sweep")(w))
    resources:
        gpu=GPUS,
        mem_mb=lambda w: 8000 + 500 * EXPERIMENT.runs("offline_sweep")(w),
        runtime=lambda w, attempt: attempt
        * (60 + EXPERIMENT.agent(w).offline.steps // 400),
    params:
        key=EXPERIMENT.key("offline_sweep"),
    shell:
        "(python -m flp.stages.offline_sweep --dataset {wildcards.dataset:q} --figure {wildcards.figure}"
        ' --seeds {wildcards.seeds} --params "$FLP_PARAMS" --threads {threads}) 2>&1 | keep {log:q}'
