rule report:
    """Make the tables, the figures and the page."""
    input:
        unpack(inputs_of("report")),
    output:
        page=layout.REPORT + "/index.html",
        summary=layout.REPORT + "/summary.csv",
        metrics=layout.REPORT + "/metrics.json",
        manifest=layout.REPORT + "/manifest.json",
    log:
        log_file("report", "report"),
    conda:
        "../envs/flp.yaml"
    threads: 4
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        key=key_of("report"),
    shell:
        "(python -m flp.stages.report --params {PARAMS:q} --threads {threads}) 2>&1 | tee -i {log:q}"
