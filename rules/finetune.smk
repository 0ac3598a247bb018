# Whole networks trained for a task: one job per task, recipe and seed, all folds; a killed job resumes.


rule finetune:
    input:
        recipe=lambda wc: str(graph.config.recipe_path(wc.recipe)),
        manifests=lambda wc: graph.manifests(graph.config.tasks[wc.task].asked),
        participants=lambda wc: graph.participants(graph.config.tasks[wc.task].asked),
        split=lambda wc: graph.split_tables([graph.config.tasks[wc.task].split]),
        models=f"{graph.root}/models/{{recipe}}/seed-{{seed}}/receipt.json",
    output:
        predictions=f"{graph.root}/tasks/{{task}}/finetune/{{recipe}}_seed-{{seed}}/predictions.parquet",
        nulls=f"{graph.root}/tasks/{{task}}/finetune/{{recipe}}_seed-{{seed}}/nulls.parquet",
    log:
        f"{graph.root}/logs/finetune_{{task}}_{{recipe}}_seed-{{seed}}.log",
    benchmark:
        f"{graph.root}/benchmarks/finetune_{{task}}_{{recipe}}_seed-{{seed}}.tsv"
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
        shards=lambda wc: graph.shard_folders(graph.config.tasks[wc.task].asked),
        split=lambda wc: graph.split_folders([graph.config.tasks[wc.task].split]),
        folder=lambda wc, output: os.path.dirname(output.predictions),
    shell:
        "neuropipe finetune --config {params.config:q} --task {wildcards.task:q} --recipe {wildcards.recipe:q}"
        " --seed {wildcards.seed} --threads {threads} --shards {params.shards:q} --split-dir {params.split:q}"
        " --models {input.models:q} --output {params.folder:q} > {log:q} 2>&1"
