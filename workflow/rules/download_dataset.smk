rule download_dataset:
    """Fetch, generate or copy one dataset, and check it."""
    input:
        unpack(inputs_of("download_dataset")),
    output:
        data=layout.DATA + ".npz",
        validation=layout.DATA + "-val.npz",
        manifest=layout.DATA + ".json",
    log:
        log_file("download_dataset", "{dataset}"),
    cache: True
    conda:
        "../envs/flp.yaml"
    threads: 16
    resources:
        mem_mb=8000,
        runtime=720,
    params:
        key=key_of("download_dataset"),
    shell:
        "(python -m flp.stages.download_dataset --dataset {wildcards.dataset:q}"
        " --params {PARAMS:q} --threads {threads}) 2>&1 | tee -i {log:q}"


rule download_dataset_all:
    input:
        first_files("download_dataset"),
    localrule: True
