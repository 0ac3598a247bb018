# Clean series to tars, one job per chunk; then one manifest per dataset, and the HDF5 file for exchange.


rule shard:
    input:
        receipt=lambda wc: graph.prepared(wc.dataset, wc.chunk),
    output:
        receipt=f"{graph.root}/receipts/{{dataset}}/shard-{{chunk}}.json",
    log:
        f"{graph.root}/logs/shard_{{dataset}}_{{chunk}}.log",
    benchmark:
        f"{graph.root}/benchmarks/shard_{{dataset}}_{{chunk}}.tsv"
    conda:
        "../envs/neuropipe.yaml"
    resources:
        mem_mb=lambda wc, attempt: 2000 * attempt,
        runtime=lambda wc, attempt: 60 * attempt,
    params:
        version=graph.params(
            "shard", graph.config.shards.dtype, graph.config.shards.shard_mb
        ),
        config=graph.path,
    shell:
        "neuropipe shard --config {params.config:q} --dataset {wildcards.dataset:q}"
        " --receipt {input.receipt:q} --output {output.receipt:q} > {log:q} 2>&1"


rule collect:
    input:
        receipts=lambda wc: graph.receipts("shard", wc.dataset),
    output:
        manifest=f"{graph.root}/shards/{{dataset}}/manifest.parquet",
        regions=f"{graph.root}/shards/{{dataset}}/regions.tsv",
        runs=f"{graph.root}/qc/{{dataset}}/runs.parquet",
        coverage=f"{graph.root}/qc/{{dataset}}/regions.parquet",
    log:
        f"{graph.root}/logs/collect_{{dataset}}.log",
    benchmark:
        f"{graph.root}/benchmarks/collect_{{dataset}}.tsv"
    wildcard_constraints:
        dataset=graph.name_of_prepared,
    conda:
        "../envs/neuropipe.yaml"
    resources:
        mem_mb=lambda wc, attempt: 2000 * attempt,
        runtime=lambda wc, attempt: 30 * attempt,
    params:
        version=graph.params("collect"),
    shell:
        "neuropipe collect --dataset {wildcards.dataset:q} --receipts {input.receipts:q}"
        " --output {output.manifest:q} > {log:q} 2>&1"


rule hdf5:
    input:
        manifest=f"{graph.root}/shards/{{dataset}}/manifest.parquet",
        participants=f"{graph.root}/index/{{dataset}}/participants.tsv",
    output:
        f"{graph.root}/shards/{{dataset}}/dataset.h5",
    log:
        f"{graph.root}/logs/hdf5_{{dataset}}.log",
    benchmark:
        f"{graph.root}/benchmarks/hdf5_{{dataset}}.tsv"
    conda:
        "../envs/neuropipe.yaml"
    resources:
        mem_mb=lambda wc, attempt: 4000 * attempt,
        runtime=lambda wc, attempt: 60 * attempt,
    params:
        version=graph.params("hdf5"),
        shards=lambda wc: graph.shard_folders([wc.dataset])[0],
    shell:
        "neuropipe hdf5 --shards {params.shards:q} --participants {input.participants:q} --output {output:q} > {log:q} 2>&1"
