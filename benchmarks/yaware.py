"""y-Aware at its published size: CPU seconds of a step, of inference and of augmentations.

    python benchmarks/yaware.py            # one thread on the processor, against the reference's figures
    python benchmarks/yaware.py --small    # seconds instead of minutes, for a test of this script

The reference figures are CPU seconds of the published code on one thread of an EPYC with AVX-512: a step of two views
of two volumes of 121 x 145 x 121, inference of one, and two-view samples per second of the augmentation recipes.
benchmarks/gpu.py measures a GPU. The last line is JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from tools.timing import Figures, autocast, bf16_change, main, rates, seconds

from neuropipe.data import augment_volume
from neuropipe.data.batch import Batch
from neuropipe.models import yaware
from neuropipe.models.yaware import Config

REFERENCE_STEP_S, REFERENCE_INFERENCE_S = 24.5, 1.0
REFERENCE_RATES = {"all": 2.8, "cutout": 49.0}
FLOOR_S = 1.29e-3  # per two-view sample on an H200, every layer fused
SHAPE, SMALL_SHAPE = (121, 145, 121), (32, 32, 32)
GPU_BATCHES, SMALL_GPU_BATCHES = (32,), (2,)


def build(small: bool, device: torch.device) -> yaware.Model:
    """Return the model at its published sizes, or a small one."""
    torch.manual_seed(0)
    config = Config(growth_rate=4, block_config=(2, 2), n_init_features=8) if small else Config()
    return yaware.Model(config).to(device)


def volumes(n: int, small: bool, device: torch.device) -> Batch:
    """Return random volumes with ages."""
    shape = SMALL_SHAPE if small else SHAPE
    ages = 20.0 + torch.arange(n, device=device)
    return Batch.of_volumes(torch.rand(n, 1, *shape, device=device), {"age": ages})


def step(loss_of, model: yaware.Model, batch: Batch, generator: torch.Generator, precision: torch.dtype) -> None:
    """Augment, forward and backward: what one training step computes, the optimiser apart."""
    with autocast(batch.device, precision):
        loss = loss_of(batch, generator, 0.0)["loss"]
    loss.backward()
    model.zero_grad(set_to_none=True)


def augment(batch: Batch, recipe: str, generator: torch.Generator, n_samples: int) -> None:
    """Make two views of `n_samples` volumes, one by one, z-score included."""
    for _ in range(n_samples):
        ready = augment_volume.zscore(batch.volume[0])[None]
        augment_volume.views(ready, augment_volume.POLICIES[recipe], 2, generator)


def on_processor(small: bool, repeats: int) -> Figures:
    """Compare CPU seconds with the reference's."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    model, generator = build(small, device), torch.Generator().manual_seed(0)
    one, two = volumes(1, small, device), volumes(2, small, device)
    found, ratios = {}, {}
    n_samples = 3 if small else 30
    for recipe, reference in REFERENCE_RATES.items():
        taken = seconds(lambda r=recipe: augment(one, r, generator, n_samples), repeats)
        rate = n_samples / taken
        found[f"augment_{recipe}_samples_per_s"] = rate
        ratios[f"augment_{recipe}_over_reference"] = rate / reference
        print(f"augment {recipe:<7} {rate:8.1f} two-view samples per CPU s   reference {reference}")
    with torch.inference_mode():
        found["inference_s"] = seconds(lambda: model.embed(one), repeats)
    found["step_s"] = seconds(lambda: step(model.loss, model, two, generator, torch.float32), repeats)
    print(f"inference, 1 volume: {found['inference_s']:.3f} CPU s   reference {REFERENCE_INFERENCE_S}")
    print(f"step, 2 x 2 volumes: {found['step_s']:.3f} CPU s   reference {REFERENCE_STEP_S}")
    ratios["inference_over_reference"] = found["inference_s"] / REFERENCE_INFERENCE_S
    ratios["step_over_reference"] = found["step_s"] / REFERENCE_STEP_S
    return found | ({} if small else ratios)


def on_device(small: bool, repeats: int, device: torch.device) -> Iterator[tuple[str, Figures]]:
    """Yield the rates of steps and augmentations, and what bf16 changes in embeddings."""
    model, generator = build(small, device), torch.Generator(device=device).manual_seed(0)
    for n in SMALL_GPU_BATCHES if small else GPU_BATCHES:
        batch = volumes(n, small, device)

        def make(precision: torch.dtype, compiled: bool, batch: Batch = batch) -> Callable[[], None]:
            loss_of = torch.compile(model.loss) if compiled else model.loss
            return lambda: step(loss_of, model, batch, generator, precision)

        yield f"batch {n}", rates(make, n, repeats, FLOOR_S, device)
    ready, found = model.standardize(batch.volume), {}
    for recipe in REFERENCE_RATES:
        policy = augment_volume.POLICIES[recipe]
        taken = seconds(lambda p=policy: augment_volume.views(ready, p, 2, generator), repeats)
        found[f"{recipe}_samples_per_s"] = n / taken
    yield "augmentation", found
    yield "embedding", bf16_change(model, batch)


if __name__ == "__main__":
    main(__doc__, on_processor)
