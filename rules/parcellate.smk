# One job works through one chunk's manifest; runs that are finished are skipped, so a killed job resumes.


rule parcellate:
    input:
        manifest=f"{graph.root}/index/{{dataset}}/chunk-{{chunk}}.tsv",
    output:
        receipt=f"{graph.root}/receipts/{{dataset}}/parcellate-{{chunk}}.json",
    log:
        f"{graph.root}/logs/parcellate_{{dataset}}_{{chunk}}.log",
    benchmark:
        f"{graph.root}/benchmarks/parcellate_{{dataset}}_{{chunk}}.tsv"
    conda:
        "../envs/neuropipe.yaml"
    # Chunks run side by side. Where there are more cores than chunks: --set-threads parcellate=4, so many runs at a time.
    threads: 1
    resources:
        mem_mb=lambda wc, threads, attempt: (1500 + 500 * threads) * attempt,
        runtime=lambda wc, attempt: 240 * attempt,
    params:
        version=lambda wc: graph.params(
            "parcellate",
            graph.config.datasets[wc.dataset].atlas,
            graph.config.datasets[wc.dataset].regions,
            graph.config.atlases
            and [
                a if isinstance(a, str) else a.model_dump()
                for a in graph.config.atlases
            ],
            graph.config.warp,
            graph.config.clean,
            graph.config.exclude,
        ),
        config=graph.path,
    shell:
        "neuropipe parcellate --config {params.config:q} --dataset {wildcards.dataset:q}"
        " --manifest {input.manifest:q} --workers {threads} --output {output.receipt:q} > {log:q} 2>&1"
