rule report:
    """Make the tables, the figures and the page."""
    input:
        unpack(EXPERIMENT.inputs("report", "report")),
    output:
        page=report(
            f"{layout.REPORT}/index.html",
            category="Results",
            caption="../report/page.rst",
        ),
        summary=report(
            f"{layout.REPORT}/summary.csv",
            category="Results",
            caption="../report/summary.rst",
        ),
        metrics=f"{layout.REPORT}/metrics.json",
        manifest=f"{layout.REPORT}/manifest.json",
    log:
        log_file("report", "report"),
    conda:
        "../envs/flp.yaml"
    threads: 4
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        key=EXPERIMENT.key("report", "report"),
    shell:
        '(python -m flp.stages.report --params "$FLP_PARAMS" --threads {threads}) 2>&1 | keep {log:q}'
