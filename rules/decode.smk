# The labels of clips: all baselines and frozen networks of a decoding task in one job.


rule decode:
    input:
        manifests=lambda wc: graph.manifests(graph.config.tasks[wc.task].datasets),
        participants=lambda wc: graph.participants(graph.config.tasks[wc.task].datasets),
        clips=lambda wc: graph.clips(wc.task),
        split=lambda wc: graph.split_tables([graph.config.tasks[wc.task].split]),
        models=lambda wc: graph.receipts_of_models(wc.task),
    output:
        decoding=f"{graph.root}/tasks/{{task}}/decoding/decoding.parquet",
    log:
        f"{graph.root}/logs/decode_{{task}}.log",
    benchmark:
        f"{graph.root}/benchmarks/decode_{{task}}.tsv"
    conda:
        "../envs/neuropipe.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=lambda wc, attempt: 16000 * attempt,
        runtime=lambda wc, attempt: 480 * attempt,
    params:
        version=lambda wc: graph.params(
            "decode",
            graph.config.tasks[wc.task],
            graph.config.evaluate,
            graph.config.seed,
        ),
        config=graph.path,
        shards=lambda wc: graph.shard_folders(graph.config.tasks[wc.task].datasets),
        split=lambda wc: graph.split_folders([graph.config.tasks[wc.task].split]),
        folder=lambda wc, output: os.path.dirname(output.decoding),
    shell:
        "neuropipe decode --config {params.config:q} --task {wildcards.task:q} --split-dir {params.split:q}"
        " --shards {params.shards:q} --models {input.models:q} --threads {threads}"
        " --output {params.folder:q} > {log:q} 2>&1"


# Whole networks trained for the labels of clips: one job per recipe and seed, with its label-efficiency grid.
rule decode_finetune:
    input:
        recipe=lambda wc: str(graph.config.recipe_path(wc.recipe)),
        manifests=lambda wc: graph.manifests(graph.config.tasks[wc.task].datasets),
        participants=lambda wc: graph.participants(graph.config.tasks[wc.task].datasets),
        clips=lambda wc: graph.clips(wc.task),
        split=lambda wc: graph.split_tables([graph.config.tasks[wc.task].split]),
        models=f"{graph.root}/models/{{recipe}}/seed-{{seed}}/receipt.json",
    output:
        decoding=f"{graph.root}/tasks/{{task}}/decoding-{{recipe}}_seed-{{seed}}/decoding.parquet",
    log:
        f"{graph.root}/logs/decode_finetune_{{task}}_{{recipe}}_seed-{{seed}}.log",
    benchmark:
        f"{graph.root}/benchmarks/decode_finetune_{{task}}_{{recipe}}_seed-{{seed}}.tsv"
    conda:
        "../envs/neuropipe.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=lambda wc, attempt: 16000 * attempt,
        # Minutes of every attempt: training that ran out of time goes on from its checkpoint.
        runtime=1440,
    params:
        version=lambda wc: graph.params(
            "finetune",
            graph.config.tasks[wc.task],
            graph.config.evaluate,
            graph.config.seed,
        ),
        config=graph.path,
        shards=lambda wc: graph.shard_folders(graph.config.tasks[wc.task].datasets),
        split=lambda wc: graph.split_folders([graph.config.tasks[wc.task].split]),
        folder=lambda wc, output: os.path.dirname(output.decoding),
    shell:
        "neuropipe finetune --config {params.config:q} --task {wildcards.task:q} --recipe {wildcards.recipe:q}"
        " --seed {wildcards.seed} --threads {threads} --shards {params.shards:q} --split-dir {params.split:q}"
        " --models {input.models:q} --output {params.folder:q} > {log:q} 2>&1"
