# Labelled windows of the recordings: a corrected events.tsv, or another label map, rewrites clips and no shard.


rule events:
    input:
        manifest=f"{graph.root}/index/{{dataset}}/runs.tsv",
    output:
        f"{graph.root}/index/{{dataset}}/events.tsv",
    log:
        f"{graph.root}/logs/events_{{dataset}}.log",
    benchmark:
        f"{graph.root}/benchmarks/events_{{dataset}}.tsv"
    conda:
        "../envs/neuropipe.yaml"
    resources:
        mem_mb=lambda wc, attempt: 2000 * attempt,
        runtime=lambda wc, attempt: 30 * attempt,
    params:
        version=lambda wc: graph.params(
            "events", graph.config.datasets[wc.dataset].events.path
        ),
        config=graph.path,
    shell:
        "neuropipe events --config {params.config:q} --dataset {wildcards.dataset:q}"
        " --manifest {input.manifest:q} --output {output:q} > {log:q} 2>&1"


rule clips:
    input:
        events=f"{graph.root}/index/{{dataset}}/events.tsv",
        manifest=f"{graph.root}/shards/{{dataset}}/manifest.parquet",
        receipts=lambda wc: graph.all_prepared(wc.dataset),
    output:
        clips=f"{graph.root}/shards/{{dataset}}/clips.parquet",
        receipt=f"{graph.root}/receipts/{{dataset}}/clips.json",
    log:
        f"{graph.root}/logs/clips_{{dataset}}.log",
    benchmark:
        f"{graph.root}/benchmarks/clips_{{dataset}}.tsv"
    wildcard_constraints:
        dataset=graph.name_of_prepared,
    conda:
        "../envs/neuropipe.yaml"
    resources:
        mem_mb=lambda wc, attempt: 2000 * attempt,
        runtime=lambda wc, attempt: 30 * attempt,
    params:
        version=lambda wc: graph.params(
            "clips", graph.config.datasets[wc.dataset].events, graph.config.seed
        ),
        config=graph.path,
    shell:
        "neuropipe clips --config {params.config:q} --dataset {wildcards.dataset:q} --events {input.events:q}"
        " --receipts {input.receipts:q} --output {output.clips:q} > {log:q} 2>&1"
