rule invert_to_latent:
    """Map the actions of one dataset to latents with one flow, and test the flow's quality."""
    input:
        unpack(EXPERIMENT.inputs("invert_to_latent")),
    output:
        latent=f"{layout.LATENT}.safetensors",
        manifest=f"{layout.LATENT}.json",
        quality=f"{layout.QUALITY}/quality.json",
        card=f"{layout.QUALITY}/quality.md",
        picture=report(
            f"{layout.QUALITY}/latent.png",
            category="Flows",
            caption="../report/latent.rst",
            labels={"dataset": "{dataset}", "seed": "{seed}"},
        ),
    log:
        log_file("invert_to_latent", "{dataset}/seed{seed}"),
    conda:
        "../envs/flp.yaml"
    threads: MOST_THREADS
    resources:
        gpu=GPUS,
        mem_mb=12000,
        runtime=lambda w, attempt: attempt * 120,
    params:
        key=EXPERIMENT.key("invert_to_latent"),
    shell:
        "(python -m flp.stages.invert_to_latent --dataset {wildcards.dataset:q} --seed {wildcards.seed}"
        ' --params "$FLP_PARAMS" --threads {threads}) 2>&1 | keep {log:q}'


rule invert_to_latent_all:
    input:
        EXPERIMENT.all("invert_to_latent"),
    localrule: True
