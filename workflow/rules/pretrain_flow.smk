rule pretrain_flow:
    """Fit the behaviour flow of one dataset and seed."""
    input:
        unpack(inputs_of("pretrain_flow")),
    output:
        model=layout.FLOW + ".safetensors",
        manifest=layout.FLOW + ".json",
        curve=layout.FLOW + ".csv",
        card=layout.FLOW + ".md",
    log:
        log_file("pretrain_flow", "{dataset}/seed{seed}"),
    cache: True
    conda:
        "../envs/flp.yaml"
    threads: lambda w: 1 if max(dataset_params(w).flow.hidden) <= 256 else 4
    resources:
        gpu=GPUS,
        mem_mb=12000,
        runtime=lambda w, attempt: attempt * (60 + dataset_params(w).flow.steps // 500),
    params:
        key=key_of("pretrain_flow"),
    shell:
        "(python -m flp.stages.pretrain_flow --dataset {wildcards.dataset:q} --seed {wildcards.seed}"
        " --params {PARAMS:q} --threads {threads}) 2>&1 | tee -i {log:q}"


rule pretrain_flow_all:
    input:
        first_files("pretrain_flow"),
    localrule: True
