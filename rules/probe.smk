# Linear readouts of frozen embeddings: all recipes, seeds and readouts of a task in one job.


rule probe:
    input:
        manifests=lambda wc: graph.manifests(graph.config.tasks[wc.task].asked),
        participants=lambda wc: graph.participants(graph.config.tasks[wc.task].asked),
        split=lambda wc: graph.split_tables([graph.config.tasks[wc.task].split]),
        embeddings=lambda wc: graph.embeddings(wc.task),
    output:
        predictions=f"{graph.root}/tasks/{{task}}/probe/predictions.parquet",
        nulls=f"{graph.root}/tasks/{{task}}/probe/nulls.parquet",
    log:
        f"{graph.root}/logs/probe_{{task}}.log",
    benchmark:
        f"{graph.root}/benchmarks/probe_{{task}}.tsv"
    conda:
        "../envs/neuropipe.yaml"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 8000 * attempt,
        runtime=lambda wc, attempt: 240 * attempt,
    params:
        version=lambda wc: graph.params(
            "probe",
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
        "neuropipe probe --config {params.config:q} --task {wildcards.task:q} --split-dir {params.split:q}"
        " --shards {params.shards:q} --embeddings {params.embeddings:q} --output {params.folder:q} > {log:q} 2>&1"
