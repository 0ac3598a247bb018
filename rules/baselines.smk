# What stands beside every model: majority, confounds, functional connectivity, random weights.


rule baselines:
    input:
        manifests=lambda wc: graph.manifests(graph.config.tasks[wc.task].asked),
        participants=lambda wc: graph.participants(graph.config.tasks[wc.task].asked),
        split=lambda wc: graph.split_tables([graph.config.tasks[wc.task].split]),
        embeddings=lambda wc: graph.embeddings(wc.task),
    output:
        predictions=f"{graph.root}/tasks/{{task}}/baselines/predictions.parquet",
        nulls=f"{graph.root}/tasks/{{task}}/baselines/nulls.parquet",
    log:
        f"{graph.root}/logs/baselines_{{task}}.log",
    benchmark:
        f"{graph.root}/benchmarks/baselines_{{task}}.tsv"
    conda:
        "../envs/neuropipe.yaml"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 8000 * attempt,
        runtime=lambda wc, attempt: 240 * attempt,
    params:
        version=lambda wc: graph.params(
            "baselines",
            graph.config.tasks[wc.task],
            graph.config.evaluate,
            graph.config.seed,
        ),
        config=graph.path,
        shards=lambda wc: graph.shard_folders(graph.config.tasks[wc.task].asked),
        split=lambda wc: graph.split_folders([graph.config.tasks[wc.task].split]),
        embeddings=lambda wc: graph.embedding_folders(wc.task),
        folder=lambda wc, output: os.path.dirname(output.predictions),
    shell:
        "neuropipe baselines --config {params.config:q} --task {wildcards.task:q} --split-dir {params.split:q}"
        " --shards {params.shards:q} --embeddings {params.embeddings:q} --output {params.folder:q} > {log:q} 2>&1"
