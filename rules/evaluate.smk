# Predictions to metrics: everything that is claimed can be recomputed from two tables, without any model.


rule evaluate:
    input:
        predictions=graph.predictions(),
        decoding=graph.decodings(),
        splits=graph.split_tables(graph.used_splits()),
    output:
        metrics=f"{graph.root}/metrics.parquet",
        csv=report(
            f"{graph.root}/metrics.csv",
            caption="../workflow/report/metrics.rst",
            category="Metrics",
        ),
        predictions=f"{graph.root}/predictions.parquet",
        nulls=f"{graph.root}/nulls.parquet",
    log:
        f"{graph.root}/logs/evaluate.log",
    benchmark:
        f"{graph.root}/benchmarks/evaluate.tsv"
    conda:
        "../envs/neuropipe.yaml"
    resources:
        mem_mb=lambda wc, attempt: 4000 * attempt,
        runtime=lambda wc, attempt: 60 * attempt,
    params:
        version=graph.params(
            "evaluate", graph.config.tasks, graph.config.evaluate, graph.config.seed
        ),
        config=graph.path,
        nulls=[
            path.replace("predictions.parquet", "nulls.parquet")
            for path in graph.predictions()
        ],
        splits=graph.split_folders(graph.used_splits()),
    shell:
        "neuropipe evaluate --config {params.config:q} --predictions {input.predictions:q}"
        " --decoding {input.decoding:q} --nulls {params.nulls:q} --splits {params.splits:q} --output {output.metrics:q} > {log:q} 2>&1"
