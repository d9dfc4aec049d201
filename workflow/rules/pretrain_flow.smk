rule pretrain_flow:
    """Fit the behaviour flow of one dataset and seed."""
    input:
        unpack(EXPERIMENT.inputs("pretrain_flow")),
    output:
        model=f"{layout.FLOW}.safetensors",
        manifest=f"{layout.FLOW}.json",
        curve=f"{layout.FLOW}.csv",
        card=f"{layout.FLOW}.md",
    log:
        log_file("pretrain_flow", "{dataset}/seed{seed}"),
    cache: True
    conda:
        "../envs/flp.yaml"
    threads: lambda w: flow_threads(EXPERIMENT.dataset(w))
    resources:
        gpu=GPUS,
        mem_mb=12000,
        runtime=lambda w, attempt: attempt
        * (60 + EXPERIMENT.dataset(w).flow.steps // 500),
    params:
        key=EXPERIMENT.key("pretrain_flow"),
    shell:
        "(python -m flp.stages.pretrain_flow --dataset {wildcards.dataset:q} --seed {wildcards.seed}"
        ' --params "$FLP_PARAMS" --threads {threads}) 2>&1 | keep {log:q}'


rule pretrain_flow_all:
    input:
        EXPERIMENT.all("pretrain_flow"),
    localrule: True
