# The paper's figures and tables, each by its name: `snakemake --cores 8 figure4`. They are not part of `all`.
for _figure in layout.FIGURES + layout.TABLES:

    rule:
        name:
            _figure
        input:
            unpack(EXPERIMENT.inputs("figure", _figure)),
        output:
            layout.figure_files(_figure),
        log:
            log_file("figure", _figure),
        conda:
            "../envs/flp.yaml"
        resources:
            mem_mb=4000,
            runtime=60,
        params:
            key=EXPERIMENT.key("figure", _figure),
            figure=_figure,
        shell:
            "(python -m flp.stages.figure --figure {params.figure}"
            ' --params "$FLP_PARAMS" --threads {threads}) 2>&1 | keep {log:q}'


rule all_figures:
    input:
        EXPERIMENT.all("figure"),
    localrule: True
