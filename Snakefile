"""neuropipe: derivatives in, believed numbers and a report out. `snakemake --cores all` runs the demo study."""

from snakemake.utils import min_version

from neuropipe.errors import NeuropipeError
from neuropipe.workflow import Graph, config_path, use_this_environment

min_version("9.15")


report: "workflow/report/workflow.rst"


use_this_environment()

try:
    graph = Graph(config_path(workflow.configfiles))
except NeuropipeError as error:
    raise WorkflowError(str(error))


# A GPU counted in profiles/default is this machine's; on a cluster the scheduler counts its own.
resource_scopes:
    gpu="local",


wildcard_constraints:
    dataset="[A-Za-z0-9][A-Za-z0-9_-]*",
    split="[A-Za-z0-9][A-Za-z0-9_-]*",
    task="[A-Za-z0-9][A-Za-z0-9_-]*",
    recipe="[A-Za-z0-9][A-Za-z0-9_-]*",
    chunk=r"\d\d+",
    seed=r"\d+",


rule all:
    input:
        f"{graph.root}/report/index.html",
        [path for name in graph.config.datasets for path in graph.shard_products(name)],


include: "rules/report.smk"
include: "rules/index.smk"
include: "rules/parcellate.smk"
include: "rules/volumes.smk"
include: "rules/shard.smk"
include: "rules/publish.smk"
include: "rules/clips.smk"
include: "rules/qc.smk"
include: "rules/split.smk"
include: "rules/pretrain.smk"
include: "rules/probe.smk"
include: "rules/finetune.smk"
include: "rules/baselines.smk"
include: "rules/decode.smk"
include: "rules/evaluate.smk"
