# Who is on which side: made once, audited, reused by every model and baseline.


rule split:
    input:
        manifests=lambda wc: graph.manifests(graph.config.split_datasets(wc.split)),
        participants=lambda wc: graph.participants(
            graph.config.split_datasets(wc.split)
        ),
    output:
        table=f"{graph.root}/splits/{{split}}/splits.parquet",
        audit=f"{graph.root}/splits/{{split}}/audit.json",
    log:
        f"{graph.root}/logs/split_{{split}}.log",
    benchmark:
        f"{graph.root}/benchmarks/split_{{split}}.tsv"
    conda:
        "../envs/neuropipe.yaml"
    resources:
        mem_mb=lambda wc, attempt: 2000 * attempt,
        runtime=lambda wc, attempt: 15 * attempt,
    params:
        version=lambda wc: graph.params(
            "split",
            graph.config.splits[wc.split],
            {
                name: task.model_dump(exclude={"test_datasets"})
                for name, task in graph.config.tasks.items()
                if task.split == wc.split
            },
            [
                graph.config.datasets[name].roles
                for name in graph.config.split_datasets(wc.split)
            ],
            graph.config.same_people(),
        ),
        config=graph.path,
        shards=lambda wc: graph.shard_folders(graph.config.split_datasets(wc.split)),
        folder=lambda wc, output: os.path.dirname(output.table),
    shell:
        "neuropipe split --config {params.config:q} --split {wildcards.split:q}"
        " --shards {params.shards:q} --output {params.folder:q} > {log:q} 2>&1"
