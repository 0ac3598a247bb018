# `snakemake publish` copies shards to `shards: publish:`. How many tars there are is not known when the graph is made,
# so the command sends them itself; the manifest, which makes them visible, is Snakemake's to send, after all of them.

if graph.config.shards.publish is not None:

    rule publish:
        input:
            [
                storage(url) if url.startswith("s3://") else url
                for url in map(graph.published, graph.prepared_here)
            ],

    for name in graph.prepared_here:

        rule:
            name:
                f"publish_{name}"
            input:
                shards=graph.publishable(name),
            output:
                manifest=(
                    storage(graph.published(name))
                    if graph.published(name).startswith("s3://")
                    else graph.published(name)
                ),
            log:
                f"{graph.root}/logs/publish_{name}.log",
            benchmark:
                f"{graph.root}/benchmarks/publish_{name}.tsv"
            conda:
                "../envs/neuropipe.yaml"
            resources:
                mem_mb=lambda wc, attempt: 1000 * attempt,
                runtime=lambda wc, attempt: 240 * attempt,
            params:
                version=graph.params("publish"),
                folder=graph.shard_folders([name])[0],
                url=os.path.dirname(graph.published(name)),
            shell:
                "neuropipe publish --shards {params.folder:q} --url {params.url:q}"
                " --manifest {output.manifest:q} > {log:q} 2>&1"
