"""A NeuroCLR model as a repository for Hugging Face's Auto classes, whose code needs torch and transformers alone.

<output>/config.json, model.safetensors                    the encoder: AutoModel
<output>/classification/config.json, model.safetensors     the classifier: AutoModelForSequenceClassification
<output>/configuration_neuroclr.py, modeling_neuroclr.py, resnet1d.py      code of both
<output>/regions.tsv, README.md                            what the columns are, and how to load it
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from neuropipe.errors import CheckpointError
from neuropipe.hub import export, finetuned
from neuropipe.hub.layouts import neuroclr as layout
from neuropipe.models import resnet1d
from neuropipe.models.neuroclr import Config, RegionNetwork, SeriesEncoder
from neuropipe.paths import atomic, write_text
from neuropipe.provenance import read_json
from neuropipe.signals.regions import Regions

CODE = Path(__file__).with_name("auto_neuroclr")
MODULES = ("configuration_neuroclr", "modeling_neuroclr")
CLASSES = {"AutoModel": "NeuroCLRModel", "AutoModelForSequenceClassification": "NeuroCLRForSequenceClassification"}
README = """\
---
library_name: transformers
tags: [fmri, neuroscience, time-series, contrastive-learning]
---
# {name}

```python
from transformers import AutoModel, AutoModelForSequenceClassification

encoder = AutoModel.from_pretrained(REPOSITORY, trust_remote_code=True)
encoder(x).h                  # x (series, 1, {n_samples}) -> h (series, {n_samples}) and z (series, {head_dim})

classifier = AutoModelForSequenceClassification.from_pretrained(
    REPOSITORY, subfolder="classification", trust_remote_code=True
)
classifier(x).logits          # x (people, {n_regions}, {n_samples}) -> logits (people, {n_labels})
```

A series is z-scored over its recording before a window of {n_samples} samples is cut. The regions are those of
`regions.tsv`, in this order. {head}
"""
UNTRAINED = "The classifier's head is not trained: transformers draws it at random and says so. Train it before use."


def write(source: Path, output: Path) -> None:
    """Write the repository of a pretrained model, or of a network that was fine-tuned from one.

    Raises
    ------
    CheckpointError
        `source` is no finished model of the published variant of neuroclr.
    """
    about = read_json(source / "config.json") if (source / "config.json").is_file() else {}
    if about and about["family"] != "neuroclr":
        raise CheckpointError(f"{source} is of the family {about['family']}; only neuroclr has an AutoModel layout.")
    if about and about["model"]["variant"] != "published":
        raise CheckpointError(
            f"{source} is of the variant native, which the layout of the release cannot hold; train one with "
            "variant: published, or keep the folder as it is: it is safetensors and JSON."
        )
    head, labels, trained = None, {"num_labels": 2}, UNTRAINED
    if "task" in about:
        saved = finetuned.load(source)
        encoder, regions = saved.network.classifier.encoder, saved.regions
        head, labels = decision(saved.network, about), names_of(about["task"])
        trained = f"The classifier was trained for {about['task']['target']}."
    else:
        read = export.load(source)
        encoder, regions = read.model.encoder, read.regions
    _write_code(output)
    regions.write(output / "regions.tsv")
    _write_models(output, encoder, head, regions, labels)
    write_text(output / "README.md", _readme(output.name, encoder.config, regions, labels, trained))


def decision(network: RegionNetwork, about: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a trained head whose last layer gives logits of two classes, calibrated, or a number in its unit.

    Our networks have one output, the log odds of the positive class: the other class's logit is 0.
    """
    head = network.classifier.head
    if not isinstance(head.dense, nn.Linear) or not isinstance(head.norm, nn.Identity):
        raise CheckpointError(
            "The network's last layers are not the released head's: fine-tune it with head: linear and head_norm: null "
            "to export it."
        )
    weights = {f"head.{name}": value for name, value in head.state_dict().items()}
    weight, bias = weights["head.dense.weight"], weights["head.dense.bias"]
    if about["scaling"] is not None:
        mean, sd = about["scaling"]["mean"], about["scaling"]["sd"]
        return weights | {"head.dense.weight": weight * sd, "head.dense.bias": bias * sd + mean}
    temperature, shift = about["calibration"]["temperature"], about["calibration"]["bias"]
    two = weight.new_zeros(2, weight.shape[1]), bias.new_zeros(2)
    two[0][1], two[1][1] = weight[0] / temperature, bias[0] / temperature + shift
    return weights | {"head.dense.weight": two[0], "head.dense.bias": two[1]}


def names_of(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a config.json that name the labels of a task."""
    if task["kind"] != "binary":
        return {"id2label": {"0": task["target"]}, "label2id": {task["target"]: 0}, "problem_type": "regression"}
    positive = str(task["positive"] or task["target"])
    names = [f"not {positive}", positive]
    return {"id2label": {str(i): name for i, name in enumerate(names)}, "label2id": {n: i for i, n in enumerate(names)}}


def _write_code(output: Path) -> None:
    for module in MODULES:
        write_text(output / f"{module}.py", (CODE / f"{module}.py").read_text(encoding="utf-8"))
    write_text(output / "resnet1d.py", Path(resnet1d.__file__).read_text(encoding="utf-8"))


def _write_models(
    output: Path,
    encoder: SeriesEncoder,
    head: Mapping[str, Tensor] | None,
    regions: Regions,
    labels: Mapping[str, Any],
) -> None:
    """Write weights and config.json of both models; without `head` the classifier holds the encoder alone."""
    weights = encoder.state_dict()
    behind = {f"encoder.{name}": value for name, value in weights.items()} | dict(head or {})
    for folder, auto, state in (
        (output, "AutoModel", weights),
        (output / "classification", "AutoModelForSequenceClassification", behind),
    ):
        with atomic(folder / "model.safetensors") as temporary:
            tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
            save_file(tensors, str(temporary), metadata={"format": "pt"})
        about = layout.to_released(encoder.config) | {
            "model_type": "neuroclr",
            "architectures": [CLASSES[auto]],
            "auto_map": {"AutoConfig": f"{MODULES[0]}.NeuroCLRConfig", auto: f"{MODULES[1]}.{CLASSES[auto]}"},
            "torch_dtype": "float32",
            "n_rois": len(regions),
            "encoder_eval_when_frozen": True,
            "atlases": regions.atlases,
            "region_order_hash": regions.order_hash,
        }
        about |= labels if auto != "AutoModel" else {}
        write_text(folder / "config.json", json.dumps(about, indent=2) + "\n")


def _readme(name: str, config: Config, regions: Regions, labels: Mapping[str, Any], trained: str) -> str:
    n_labels = len(labels["id2label"]) if "id2label" in labels else labels["num_labels"]
    return README.format(
        name=name,
        n_samples=config.n_samples,
        head_dim=config.head_dim,
        n_regions=len(regions),
        n_labels=n_labels,
        head=trained,
    )
