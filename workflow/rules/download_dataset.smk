rule download_dataset:
    """Fetch, generate or copy one dataset, and check it."""
    input:
        unpack(EXPERIMENT.inputs("download_dataset")),
    output:
        data=f"{layout.DATA}.npz",
        validation=f"{layout.DATA}-val.npz",
        manifest=f"{layout.DATA}.json",
    log:
        log_file("download_dataset", "{dataset}"),
    cache: True
    conda:
        "../envs/flp.yaml"
    threads: MOST_THREADS
    resources:
        mem_mb=8000,
        runtime=lambda w, attempt: attempt * 720,
    params:
        key=EXPERIMENT.key("download_dataset"),
    shell:
        "(python -m flp.stages.download_dataset --dataset {wildcards.dataset:q}"
        ' --params "$FLP_PARAMS" --threads {threads}) 2>&1 | keep {log:q}'


rule download_dataset_all:
    input:
        EXPERIMENT.all("download_dataset"),
    localrule: True
