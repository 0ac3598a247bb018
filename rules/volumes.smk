# Maps of anatomy and slices to one grid and unit: one job per chunk, like parcellate for series.


rule volumes:
    input:
        manifest=f"{graph.root}/index/{{dataset}}/chunk-{{chunk}}.tsv",
    output:
        receipt=f"{graph.root}/receipts/{{dataset}}/volumes-{{chunk}}.json",
    log:
        f"{graph.root}/logs/volumes_{{dataset}}_{{chunk}}.log",
    benchmark:
        f"{graph.root}/benchmarks/volumes_{{dataset}}_{{chunk}}.tsv"
    conda:
        "../envs/neuropipe.yaml"
    # Where there are more cores than chunks: --set-threads volumes=4, so many maps at a time.
    threads: 1
    resources:
        mem_mb=lambda wc, threads, attempt: (1500 + 500 * threads) * attempt,
        runtime=lambda wc, attempt: 240 * attempt,
    params:
        version=lambda wc: graph.volumes_params(wc.dataset),
        config=graph.path,
    shell:
        "neuropipe volumes --config {params.config:q} --dataset {wildcards.dataset:q}"
        " --manifest {input.manifest:q} --workers {threads} --output {output.receipt:q} > {log:q} 2>&1"
