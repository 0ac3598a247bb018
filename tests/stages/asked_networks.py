"""Small networks for tasks on disk, and scans that they read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from PIL import Image

from neuropipe import models
from neuropipe.config import Volumes
from neuropipe.hub import familiarity, finetuned

SHAPE = (14, 16, 13)
AFFINE = np.array([[6.0, 0, 0, -39], [0, 6, 0, -45], [0, 0, 6, -36], [0, 0, 0, 1]])
GRID = {"space": "MNI152NLin2009cAsym", "shape": list(SHAPE), "affine": AFFINE.tolist()}
DENSENET = {"growth_rate": 4, "block_config": (2, 2), "n_init_features": 8, "bn_size": 2}
VIT = {"img_size": (32, 32), "patch_size": (8, 8), "embed_dim": 16, "depth": 2, "num_heads": 2} | {
    "covariance_dim": 6, "covariance_features": 8, "decoder_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2,
}  # fmt: skip
DIAGNOSIS = {"name": "diagnosis", "target": "diagnosis", "kind": "binary", "positive": "patient"}
AGE = {"name": "age", "target": "age", "kind": "regression", "positive": None}


def write_network(folder: Path, family: str = "yaware", seed: int = 0, **facts: Any) -> Path:
    """Write a network with random weights and return its folder."""
    config = models.load(family).Config(**(DENSENET if family == "yaware" else VIT))
    network = finetuned.build(family, config, None, seed=seed).eval()
    torch.nn.init.normal_(list(network.parameters())[-2], std=0.5)  # a head that tells people apart
    width = _width(network, family)
    rng = np.random.default_rng(seed)
    known = familiarity.fit(rng.standard_normal((6, width)), 3 * rng.standard_normal((4, width)))
    is_volume = family == "yaware"
    about = {
        "content": "volume" if is_volume else "image",
        "slices": None if is_volume else {"plane": "axial", "range": [0.2, 0.8], "step": 2},
        "volumes": Volumes(dtype="float32").model_dump(mode="json"),
        "grid": GRID,
        "map": "gm",
        "task": DIAGNOSIS,
        "calibration": {"temperature": 1.5, "bias": 0.2},
        "scaling": None,
        "n_passes": 5,
        "n_clips": 4,
        "drop_rate": None,
        "training": {"n_train": 6, "n_validation": 4, "datasets": ["demo"]},
    }
    finetuned.save(
        folder, family=family, config=config, network=network, familiarity=known, regions=None, facts=about | facts
    )
    return folder


def _width(network, family: str) -> int:
    from neuropipe.data.batch import Batch

    batch = (
        Batch.of_volumes(torch.rand(1, 1, *SHAPE)) if family == "yaware" else Batch.of_images(torch.rand(1, 1, 32, 32))
    )
    with torch.no_grad():
        return network.features(network.encode(batch)).shape[1]


def write_map(path: Path, seed: int = 0, affine: np.ndarray = AFFINE, shape=SHAPE, change=None) -> Path:
    """Write a map of noise within an ellipsoid and return its path."""
    rng = np.random.default_rng(seed)
    where = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape[:3]], indexing="ij"))
    array = rng.random(shape, dtype=np.float32)
    array *= (np.square(where).sum(0) < 0.9).reshape(shape[:3] + (1,) * (len(shape) - 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array if change is None else change(array), affine), path)
    return path


def write_picture(path: Path, seed: int = 0, mode: str = "L", shape=(40, 32)) -> Path:
    """Write a picture of noise and return its path."""
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        Image.fromarray(rng.integers(0, 4096, shape, dtype=np.uint16)).save(path)
    else:
        grey = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
        grey.convert(mode).save(path)
    return path
