# The quality page of a dataset, with a picture of every run beside it.


rule qc:
    input:
        manifest=f"{graph.root}/shards/{{dataset}}/manifest.parquet",
        runs=f"{graph.root}/qc/{{dataset}}/runs.parquet",
        regions=f"{graph.root}/qc/{{dataset}}/regions.parquet",
        participants=f"{graph.root}/index/{{dataset}}/participants.tsv",
        excluded=f"{graph.root}/index/{{dataset}}/excluded.tsv",
        receipts=lambda wc: graph.all_prepared(wc.dataset),
    output:
        html=report(
            f"{graph.root}/qc/{{dataset}}/index.html",
            caption="../workflow/report/quality.rst",
            category="Quality",
            labels={"dataset": "{dataset}"},
        ),
    log:
        f"{graph.root}/logs/qc_{{dataset}}.log",
    benchmark:
        f"{graph.root}/benchmarks/qc_{{dataset}}.tsv"
    conda:
        "../envs/neuropipe.yaml"
    resources:
        mem_mb=lambda wc, attempt: 2000 * attempt,
        runtime=lambda wc, attempt: 60 * attempt,
    params:
        version=lambda wc: graph.params(
            "qc",
            graph.config.exclude,
            graph.config.clean.fd_threshold_mm,
            graph.config.datasets[wc.dataset].roles,
        ),
        config=graph.path,
    shell:
        "neuropipe qc --config {params.config:q} --dataset {wildcards.dataset:q}"
        " --output {output.html:q} > {log:q} 2>&1"
