# On request only: `snakemake videos`. The program skips videos of the present policies, and the page, which shows the
# videos that exist, is made again.
rule videos:
    """Film a rollout of every task, flow and policies side by side, and show it on the page."""
    input:
        EXPERIMENT.all("report"),
    log:
        log_file("videos", "videos"),
    conda:
        "../envs/flp.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=240,
    shell:
        '(python -m flp.cli videos --params "$FLP_PARAMS"'
        ' && python -m flp.stages.report --params "$FLP_PARAMS") 2>&1 | keep {log:q}'
