# One job per recipe and seed trains all its folds; a killed job resumes from undeclared checkpoints.


rule pretrain:
    input:
        recipe=lambda wc: str(graph.config.recipe_path(wc.recipe)),
        manifests=lambda wc: graph.manifests(graph.config.pretrain[wc.recipe].datasets),
        splits=lambda wc: graph.split_tables(graph.config.judging_splits(wc.recipe)),
        labels=lambda wc: graph.training_labels(wc.recipe),
    output:
        receipt=f"{graph.root}/models/{{recipe}}/seed-{{seed}}/receipt.json",
    log:
        f"{graph.root}/logs/pretrain_{{recipe}}_seed-{{seed}}.log",
    benchmark:
        f"{graph.root}/benchmarks/pretrain_{{recipe}}_seed-{{seed}}.tsv"
    conda:
        "../envs/neuropipe.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=lambda wc, attempt: 16000 * attempt,
        # Minutes of every attempt: training that ran out of time goes on from its checkpoint.
        runtime=1440,
    params:
        version=lambda wc: graph.params("pretrain", *graph.pretrain_sections(wc.recipe)),
        config=graph.path,
        shards=lambda wc: graph.shard_folders(graph.config.pretrain[wc.recipe].datasets),
        splits=lambda wc: graph.split_folders(graph.config.judging_splits(wc.recipe)),
    shell:
        "neuropipe pretrain --config {params.config:q} --recipe {wildcards.recipe:q} --seed {wildcards.seed} --threads {threads}"
        " --gpus {resources.gpu} --shards {params.shards:q} --splits {params.splits:q} --output {output.receipt:q} > {log:q} 2>&1"


rule embed:
    input:
        models=f"{graph.root}/models/{{recipe}}/seed-{{seed}}/receipt.json",
        manifests=lambda wc: graph.manifests(graph.judged_datasets(wc.recipe)),
    output:
        receipt=f"{graph.root}/embeddings/{{recipe}}/seed-{{seed}}/receipt.json",
    log:
        f"{graph.root}/logs/embed_{{recipe}}_seed-{{seed}}.log",
    benchmark:
        f"{graph.root}/benchmarks/embed_{{recipe}}_seed-{{seed}}.tsv"
    conda:
        "../envs/neuropipe.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=lambda wc, attempt: 8000 * attempt,
        runtime=lambda wc, attempt: 240 * attempt,
    params:
        version=graph.params("embed", *graph.embed_sections()),
        config=graph.path,
        shards=lambda wc: graph.shard_folders(graph.judged_datasets(wc.recipe)),
    shell:
        "neuropipe embed --config {params.config:q} --models {input.models:q} --threads {threads}"
        " --shards {params.shards:q} --output {output.receipt:q} > {log:q} 2>&1"
