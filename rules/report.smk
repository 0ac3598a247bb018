# The one page, with what was left out beside it; and a name for every dataset, recipe and task.


rule report:
    input:
        metrics=f"{graph.root}/metrics.parquet",
        predictions=f"{graph.root}/predictions.parquet",
        quality=expand(
            f"{graph.root}/qc/{{dataset}}/runs.parquet", dataset=graph.config.datasets
        ),
        clips=[str(graph.study.clips_receipt(name)) for name in graph.with_events()],
        pages=expand(
            f"{graph.root}/qc/{{dataset}}/index.html", dataset=graph.prepared_here
        ),
    output:
        html=report(
            f"{graph.root}/report/index.html",
            caption="../workflow/report/study.rst",
            category="Study report",
        ),
        methods=report(
            f"{graph.root}/report/methods.md",
            caption="../workflow/report/methods.rst",
            category="Study report",
        ),
        references=f"{graph.root}/report/references.bib",
        excluded=report(
            f"{graph.root}/excluded.tsv",
            caption="../workflow/report/excluded.rst",
            category="Study report",
        ),
        cards=[
            report(
                f"{graph.root}/report/models/{recipe}.md",
                caption="../workflow/report/card.rst",
                category="Model cards",
                labels={"model": recipe},
            )
            for recipe in graph.judged_recipes()
        ],
    log:
        f"{graph.root}/logs/report.log",
    benchmark:
        f"{graph.root}/benchmarks/report.tsv"
    conda:
        "../envs/neuropipe.yaml"
    resources:
        mem_mb=lambda wc, attempt: 2000 * attempt,
        runtime=lambda wc, attempt: 15 * attempt,
    params:
        version=graph.params("report", graph.config),
        study=lambda wc, input: os.path.dirname(input.metrics),
        config=graph.path,
    shell:
        "neuropipe report --config {params.config:q} --study {params.study:q} --output {output.html:q} > {log:q} 2>&1"


for name in graph.config.datasets:

    rule:
        name:
            f"shards_{name}"
        input:
            graph.shard_products(name),


for name in graph.prepared_here:

    rule:
        name:
            f"parcellated_{name}"
        input:
            graph.all_prepared(name),

    rule:
        name:
            f"qc_{name}"
        input:
            f"{graph.root}/qc/{name}/index.html",


for name in graph.config.pretrain:

    rule:
        name:
            f"model_{name}"
        input:
            [
                f"{graph.study.model(r, s)}/receipt.json"
                for r, s in graph.models()
                if r == name
            ],


for name in graph.config.tasks:

    rule:
        name:
            f"task_{name}"
        input:
            graph.task_predictions(name),
