"""Brain-Semantoks at its published sizes: CPU seconds of a training step and of features.

    python benchmarks/semantoks.py            # one thread on the processor, against the reference's figures
    python benchmarks/semantoks.py --small    # seconds instead of minutes, for a test of this script

The reference figures are CPU seconds of the published code on one thread of an EPYC with AVX-512 (batch 8, masks and
network loss on; 8 crops of one recording in one batch). benchmarks/gpu.py measures a GPU. The last line is JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from tools.timing import Figures, autocast, bf16_change, main, rates, seconds

from neuropipe.data.batch import Batch
from neuropipe.models import semantoks
from neuropipe.models.semantoks import Branch, Config
from neuropipe.signals.regions import Regions

REFERENCE_STEP_S, REFERENCE_FEATURES_S = 4.88, 0.56
FLOOR_S = 58.6e-6  # per sample on an H200: 46.3 GFLOP
SIZES = (61, 77, 46, 47, 26, 52, 91, 50, 7)


def build(small: bool, device: torch.device) -> semantoks.Model:
    """Return the model at its published sizes, or a small one."""
    torch.manual_seed(0)
    regions = Regions.plain("demo", sum(SIZES)).with_networks(np.repeat(np.arange(9), SIZES))
    if small:
        branches = (Branch(kind="dense", out_channels=16), Branch(kind="sgconv", out_channels=16, kernel_size=4))
        config = Config(embed_dim=32, depth=2, num_heads=2, branches=branches, mask_probability=1.0)
    else:
        config = Config(mask_probability=1.0)
    return semantoks.Model(config, regions).to(device)


def step(
    model: semantoks.Model, loss_of: Callable, batch: Batch, generator: torch.Generator, precision: torch.dtype
) -> None:
    """Forward, backward and teacher: what one training step computes, the optimiser apart."""
    with autocast(batch.device, precision):
        loss = loss_of(batch, generator, 0.0)["loss"]
    loss.backward()
    model.after_step(0.0)
    model.zero_grad(set_to_none=True)


def on_processor(small: bool, repeats: int) -> Figures:
    """Compare CPU seconds with the reference's."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    model, generator = build(small, device), torch.Generator()
    views = Batch.of_series(torch.randn(16, 100, sum(SIZES)), n_views=2)
    crops = Batch.of_series(torch.randn(8, 100, sum(SIZES)))
    taken = seconds(lambda: step(model, model.loss, views, generator, torch.float32), repeats)
    with torch.inference_mode():
        features = seconds(lambda: model.embed(crops), repeats)
    print(f"step, batch 8:       {taken:.3f} CPU s   reference {REFERENCE_STEP_S}")
    print(f"features, 8 crops:   {features:.3f} CPU s   reference {REFERENCE_FEATURES_S}")
    ratios = {
        "step_over_reference": taken / REFERENCE_STEP_S,
        "features_over_reference": features / REFERENCE_FEATURES_S,
    }
    return {"step_s": taken, "features_s": features} | ({} if small else ratios)


def on_device(small: bool, repeats: int, device: torch.device) -> Iterator[tuple[str, Figures]]:
    """Yield the rates of steps, and what bf16 changes in embeddings."""
    model, generator = build(small, device), torch.Generator(device=device)
    for n in (4,) if small else (64, 256):
        views = Batch.of_series(torch.randn(2 * n, 100, sum(SIZES), device=device), n_views=2)

        def make(precision: torch.dtype, compiled: bool, views: Batch = views) -> Callable[[], None]:
            loss_of = torch.compile(model.loss) if compiled else model.loss
            return lambda: step(model, loss_of, views, generator, precision)

        yield f"batch {n}", rates(make, n, repeats, FLOOR_S, device)
    crops = Batch.of_series(torch.randn(4 if small else 64, 100, sum(SIZES), device=device))
    yield "embedding", bf16_change(model, crops)


if __name__ == "__main__":
    main(__doc__, on_processor, repeats=5)
