# Only the manifest, which is written last, is declared: Snakemake deletes declared outputs before a job starts, and
# finished runs must stay when a task, a seed or a value of the sweep is added.
rule online_finetune:
    """Continue the runs of one offline job in the environment."""
    input:
        unpack(EXPERIMENT.inputs("online_finetune")),
    output:
        manifest=f"{layout.ONLINE}/manifest.json",
    log:
        log_file("online_finetune", "{dataset}/{agent}/seed{seeds}"),
    conda:
        "../envs/flp.yaml"
    threads: lambda w: min(MOST_THREADS, EXPERIMENT.runs("online_finetune")(w))
    resources:
        gpu=GPUS,
        mem_mb=lambda w: 8000 + 500 * EXPERIMENT.runs("online_finetune")(w),
        runtime=lambda w, attempt: attempt
        * (60 + EXPERIMENT.agent(w).online.steps // 400),
    params:
        key=EXPERIMENT.key("online_finetune"),
    shell:
        "(python -m flp.stages.online_finetune --dataset {wildcards.dataset:q} --agent {wildcards.agent}"
        ' --seeds {wildcards.seeds} --params "$FLP_PARAMS" --threads {threads}) 2>&1 | keep {log:q}'


rule online_finetune_all:
    input:
        EXPERIMENT.all("online_finetune"),
    localrule: True
