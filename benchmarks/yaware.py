"""y-Aware at its published size: CPU seconds of a step, of inference and of augmentations, or rates on a GPU.

    python benchmarks/yaware.py            # one thread on the processor, against the reference's figures
    python benchmarks/yaware.py --small    # seconds instead of minutes, for a test of this script

The reference figures are CPU seconds of the published code on one thread of an EPYC with AVX-512: a step of two views
of two volumes of 121 x 145 x 121, inference of one, and two-view samples per second of the augmentation recipes. With
a GPU: float32 beside bf16, eager beside compiled, memory, and the largest difference between both precisions; the
floor is the bytes that the layers read and write at 4.3 TB/s. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from neuropipe.data import augment_volume
from neuropipe.data.batch import Batch
from neuropipe.models import yaware
from neuropipe.models.yaware import Config

REFERENCE_STEP_S, REFERENCE_INFERENCE_S = 24.5, 1.0
REFERENCE_RATES = {"all": 2.8, "cutout": 49.0}
FLOOR_S = 1.29e-3  # per two-view sample on an H200, every layer fused
SHAPE, SMALL_SHAPE = (121, 145, 121), (32, 32, 32)
GPU_BATCHES, SMALL_GPU_BATCHES = (8, 32), (2,)


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
    with torch.autocast(batch.device.type, precision, enabled=precision != torch.float32):
        loss = loss_of(batch, generator, 0.0)["loss"]
    loss.backward()
    model.zero_grad(set_to_none=True)


def seconds(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Return the median seconds of `work`: of the processor on a CPU, of the wall on a GPU."""
    work()
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    taken = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(clock() - begun)
    return statistics.median(taken)


def augment(batch: Batch, recipe: str, generator: torch.Generator, n_samples: int) -> None:
    """Make two views of `n_samples` volumes, one by one, z-score included."""
    for _ in range(n_samples):
        ready = augment_volume.zscore(batch.volume[0])[None]
        augment_volume.views(ready, augment_volume.POLICIES[recipe], 2, generator)


def on_processor(small: bool, repeats: int) -> dict[str, float]:
    """Compare CPU seconds with the reference's."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    model, generator = build(small, device), torch.Generator().manual_seed(0)
    one, two = volumes(1, small, device), volumes(2, small, device)
    found, ratios = {}, {}
    n_samples = 3 if small else 30
    for recipe, reference in REFERENCE_RATES.items():
        taken = seconds(lambda r=recipe: augment(one, r, generator, n_samples), repeats, device)
        rate = n_samples / max(taken, 1e-9)
        found[f"augment_{recipe}_samples_per_s"] = rate
        ratios[f"augment_{recipe}_over_reference"] = rate / reference
        print(f"augment {recipe:<7} {rate:8.1f} two-view samples per CPU s   reference {reference}")
    with torch.inference_mode():
        found["inference_s"] = seconds(lambda: model.embed(one), repeats, device)
    found["step_s"] = seconds(lambda: step(model.loss, model, two, generator, torch.float32), repeats, device)
    print(f"inference, 1 volume: {found['inference_s']:.3f} CPU s   reference {REFERENCE_INFERENCE_S}")
    print(f"step, 2 x 2 volumes: {found['step_s']:.3f} CPU s   reference {REFERENCE_STEP_S}")
    ratios["inference_over_reference"] = found["inference_s"] / REFERENCE_INFERENCE_S
    ratios["step_over_reference"] = found["step_s"] / REFERENCE_STEP_S
    return found | ({} if small else ratios)


def on_gpu(small: bool, repeats: int) -> dict[str, float]:
    """Measure samples per second, memory, and what bf16 changes."""
    device = torch.device("cuda")
    model, generator = build(small, device), torch.Generator(device=device).manual_seed(0)
    found = {}
    for n in SMALL_GPU_BATCHES if small else GPU_BATCHES:
        batch = volumes(n, small, device)
        ways = {
            "float32": (model.loss, torch.float32),
            "bf16": (model.loss, torch.bfloat16),
            "bf16_compiled": (torch.compile(model.loss), torch.bfloat16),
        }
        for name, (loss_of, precision) in ways.items():
            torch.cuda.reset_peak_memory_stats()
            taken = seconds(lambda f=loss_of, b=batch, p=precision: step(f, model, b, generator, p), repeats, device)
            found[f"{name}_{n}_samples_per_s"] = n / taken
            found[f"{name}_{n}_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
            found[f"{name}_{n}_floor_share"] = n * FLOOR_S / taken
        for recipe in REFERENCE_RATES:
            policy, ready = augment_volume.POLICIES[recipe], model.standardize(batch.volume)
            taken = seconds(lambda p=policy, r=ready: augment_volume.views(r, p, 2, generator), repeats, device)
            found[f"augment_{recipe}_{n}_samples_per_s"] = n / taken
    with torch.inference_mode():
        exact = model.embed(batch)
        with torch.autocast("cuda", torch.bfloat16):
            rough = model.embed(batch).float()
    found["bf16_embedding_cosine_min"] = torch.nn.functional.cosine_similarity(exact, rough).min().item()
    for name, value in found.items():
        print(f"{name:<36}{value:.4g}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small model, to test the script")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpu", action="store_true", help="measure on the processor even where there is a GPU")
    chosen = parser.parse_args()
    gpu = torch.cuda.is_available() and not chosen.cpu
    print("device:", torch.cuda.get_device_name() if gpu else "processor, one thread")
    print(json.dumps((on_gpu if gpu else on_processor)(chosen.small, chosen.repeats)))


if __name__ == "__main__":
    main()
