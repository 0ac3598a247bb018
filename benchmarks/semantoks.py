"""Brain-Semantoks at its published sizes: CPU seconds of a training step and of features, or rates on a GPU.

    python benchmarks/semantoks.py            # one thread on the processor, against the reference's figures
    python benchmarks/semantoks.py --small    # seconds instead of minutes, for a test of this script

The reference figures are CPU seconds of the published code on one thread of an EPYC with AVX-512 (batch 8, masks and
network loss on; 8 crops of one recording in one batch). With a GPU: float32 beside bf16, eager beside compiled, and
the largest difference between both precisions. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from neuropipe.data.batch import Batch
from neuropipe.models import semantoks
from neuropipe.models.semantoks import Branch, Config
from neuropipe.signals.regions import Regions

REFERENCE_STEP_S, REFERENCE_FEATURES_S = 4.88, 0.56
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


def step(model: semantoks.Model, batch: Batch, generator: torch.Generator, precision: torch.dtype) -> None:
    """Forward, backward and teacher: what one training step computes, the optimiser apart."""
    with torch.autocast(batch.series.device.type, precision, enabled=precision != torch.float32):
        loss = model.loss(batch, generator, 0.0)["loss"]
    loss.backward()
    model.after_step(0.0)
    model.zero_grad(set_to_none=True)


def seconds(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Return the median seconds of `work`: of the processor on a CPU, of the wall on a GPU."""
    work()
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    taken = []
    for _ in range(repeats):
        begun = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(clock() - begun)
    return statistics.median(taken)


def on_processor(small: bool, repeats: int) -> dict[str, float]:
    """Compare CPU seconds with the reference's."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    model, generator = build(small, device), torch.Generator()
    views = Batch.of_series(torch.randn(16, 100, sum(SIZES)), n_views=2)
    crops = Batch.of_series(torch.randn(8, 100, sum(SIZES)))
    taken = seconds(lambda: step(model, views, generator, torch.float32), repeats, device)
    with torch.inference_mode():
        features = seconds(lambda: model.embed(crops), repeats, device)
    print(f"step, batch 8:       {taken:.3f} CPU s   reference {REFERENCE_STEP_S}")
    print(f"features, 8 crops:   {features:.3f} CPU s   reference {REFERENCE_FEATURES_S}")
    ratios = {
        "step_over_reference": taken / REFERENCE_STEP_S,
        "features_over_reference": features / REFERENCE_FEATURES_S,
    }
    return {"step_s": taken, "features_s": features} | ({} if small else ratios)


def on_gpu(small: bool, repeats: int) -> dict[str, float]:
    """Measure samples per second, memory, and what bf16 changes."""
    device = torch.device("cuda")
    model, generator = build(small, device), torch.Generator(device=device)
    found = {}
    for batch in (64, 256):
        views = Batch.of_series(torch.randn(2 * batch, 100, sum(SIZES), device=device), n_views=2)
        for name, precision in (("float32", torch.float32), ("bf16", torch.bfloat16)):
            torch.cuda.reset_peak_memory_stats()
            taken = seconds(lambda v=views, p=precision: step(model, v, generator, p), repeats, device)
            found[f"{name}_{batch}_samples_per_s"] = batch / taken
            found[f"{name}_{batch}_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    eager = model.loss
    model.loss = torch.compile(eager)
    taken = seconds(lambda: step(model, views, generator, torch.bfloat16), repeats, device)
    found["bf16_compiled_256_samples_per_s"] = 256 / taken
    model.loss = eager
    crops = Batch.of_series(torch.randn(64, 100, sum(SIZES), device=device))
    with torch.inference_mode():
        exact = model.embed(crops)
        with torch.autocast("cuda", torch.bfloat16):
            rough = model.embed(crops).float()
    found["bf16_embedding_cosine_min"] = torch.nn.functional.cosine_similarity(exact, rough).min().item()
    for name, value in found.items():
        print(f"{name:<36}{value:.4g}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small model, to test the script")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cpu", action="store_true", help="measure on the processor even where there is a GPU")
    chosen = parser.parse_args()
    gpu = torch.cuda.is_available() and not chosen.cpu
    print("device:", torch.cuda.get_device_name() if gpu else "processor, one thread")
    print(json.dumps((on_gpu if gpu else on_processor)(chosen.small, chosen.repeats)))


if __name__ == "__main__":
    main()
