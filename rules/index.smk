# `snakemake index` always rescans; a manifest is rewritten only where its content changed.
# It has no benchmark: one that is there would count as a product, and nothing would be done.


rule index:
    log:
        f"{graph.root}/logs/index.log",
    conda:
        "../envs/neuropipe.yaml"
    resources:
        mem_mb=lambda wc, attempt: 2000 * attempt,
        runtime=lambda wc, attempt: 60 * attempt,
    params:
        config=graph.path,
        index=f"{graph.root}/index",
    shell:
        "neuropipe index --config {params.config:q} --output {params.index:q} 2>&1 | tee {log:q}"


for name in graph.config.datasets:

    # The first scan of a dataset, or the tables of shards that were made elsewhere; later ones are `snakemake index`.
    rule:
        name:
            f"index_{name}"
        output:
            [str(graph.study.chunk(name, chunk)) for chunk in graph.chunks(name)],
            **graph.index_products(name),
        log:
            f"{graph.root}/logs/index_{name}.log",
        benchmark:
            f"{graph.root}/benchmarks/index_{name}.tsv"
        conda:
            "../envs/neuropipe.yaml"
        resources:
            mem_mb=lambda wc, attempt: 2000 * attempt,
            runtime=lambda wc, attempt: 60 * attempt,
        params:
            version=graph.index_params(name),
            config=graph.path,
            dataset=name,
            folder=lambda wc, output: os.path.dirname(output.participants),
        shell:
            "neuropipe index --config {params.config:q} --dataset {params.dataset:q}"
            " --output {params.folder:q} > {log:q} 2>&1"
