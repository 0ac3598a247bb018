"""NeuroSSL at its published size: forward passes, stochastic predictions and training steps.

    python benchmarks/multiscale_vit.py            # one and two threads on the processor, beside the reference
    python benchmarks/multiscale_vit.py --small    # seconds instead of minutes, for a test of this script

The reference figures are of the published code on two busy cores (+-30 %), slices of 224 x 224: images per second of
the forward pass of 8, seconds of a prediction with 10 stochastic passes and rollout, and of an AdamW step of 8. Ours
are CPU seconds with one thread, and wall seconds with two. `compact` is the corrected head, `full` the published one;
both are trained by cross-entropy, `pretrain` is masked images. benchmarks/gpu.py measures a GPU. The last line is JSON.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from tools.timing import Figures, autocast, main, rates, report, seconds
from torch import Tensor, nn
from torch.nn import functional as F

from neuropipe.data.batch import Batch
from neuropipe.models.multiscale_vit import Classifier, Config, Model
from neuropipe.train import optim
from neuropipe.train.recipe import TrainSettings

REFERENCE_IMAGES_PER_S, REFERENCE_PREDICTION_S, REFERENCE_STEP_S = 3.06, 8.2, (17.7, 23.8)
FLOOR_S = 34.6e-6  # per slice on an H200: 27.3 GFLOP forward and backward of the encoder
N_PASSES, BATCH = 10, 8
GPU_BATCH, SMALL_GPU_BATCH = 256, 4
SETTINGS = TrainSettings(n_steps=1000, batch_size=BATCH, lr=1e-4)
SMALL = {"img_size": (32, 32), "patch_size": (8, 8), "embed_dim": 24, "num_heads": 3, "decoder_dim": 24}


def configs(small: bool) -> dict[str, Config]:
    """Return the corrected and the published settings."""
    found = {"compact": Config(), "full": Config.published()}
    if small:
        found = {name: Config.model_validate(config.model_dump() | SMALL) for name, config in found.items()}
    return found


def slices(n: int, config: Config, device: torch.device) -> Tensor:
    """Return random slices."""
    return torch.rand(n, config.in_channels, *config.img_size, device=device)


def stepper(model: nn.Module, loss_of: Callable[[], Tensor], precision: torch.dtype) -> Callable[[], None]:
    """Return a function that makes one AdamW step, forward and backward included."""
    optimizer = optim.build(model, SETTINGS)
    device = next(model.parameters()).device

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, precision):
            loss = loss_of()
        loss.backward()
        optimizer.step()

    return step


def supervised(
    config: Config, n: int, device: torch.device, precision: torch.dtype, compiled: bool = False
) -> Callable[[], None]:
    """Return a step of a classifier on `n` slices."""
    model, images = Classifier(config).to(device), slices(n, config, device)
    labels, generator = torch.arange(n, device=device) % 2, torch.Generator(device=device).manual_seed(0)
    forward = torch.compile(model) if compiled else model
    return stepper(model, lambda: F.cross_entropy(forward(images, generator).float(), labels), precision)


def pretraining(
    config: Config, n: int, device: torch.device, precision: torch.dtype, compiled: bool = False
) -> Callable[[], None]:
    """Return a step of masked-image pretraining on `n` slices."""
    model, batch = Model(config).to(device), Batch.of_images(slices(n, config, device))
    generator = torch.Generator(device=device).manual_seed(0)
    loss_of = torch.compile(model.loss) if compiled else model.loss
    return stepper(model, lambda: loss_of(batch, generator, 0.0)["loss"], precision)


def on_processor(small: bool, repeats: int) -> Figures:
    """Measure with one thread and with two."""
    found, device = {}, torch.device("cpu")
    for n_threads, clock in ((1, time.process_time), (2, time.perf_counter)):
        torch.set_num_threads(n_threads)
        for head, config in configs(small).items():
            name = f"{head}_{n_threads}_threads"
            model = Classifier(config)
            one, eight = slices(1, config, device), slices(BATCH, config, device)
            taken = seconds(lambda m=model, x=eight: m.predict(x), repeats, clock)
            found[f"{name}_forward_images_per_s"] = BATCH / taken
            found[f"{name}_one_pass_s"] = seconds(lambda m=model, x=one: m.predict(x), 3 * repeats, clock)
            found[f"{name}_ten_passes_s"] = seconds(lambda m=model, x=one: m.predict(x, N_PASSES), 3 * repeats, clock)
            found[f"{name}_rollout_s"] = seconds(lambda m=model, x=one: m.rollout(x), repeats, clock)
            found[f"{name}_step_s"] = seconds(supervised(config, BATCH, device, torch.float32), repeats, clock)
        step = pretraining(configs(small)["compact"], BATCH, device, torch.float32)
        found[f"pretrain_{n_threads}_threads_step_s"] = seconds(step, repeats, clock)
    found |= ratios(found, small)
    report(found)
    return found


def ratios(found: dict[str, float], small: bool) -> Figures:
    """Return what the figures are asked to reach; those over the reference, at two threads, at the full size only."""
    made = {}
    for head in ("compact", "full"):
        for n in (1, 2):
            name = f"{head}_{n}_threads"
            one, ten = found[f"{name}_one_pass_s"], found[f"{name}_ten_passes_s"]
            made[f"{name}_ten_passes_over_one"] = ten / one
        if not small:
            name = f"{head}_2_threads"
            whole = found[f"{name}_ten_passes_s"] + found[f"{name}_rollout_s"]
            made[f"{name}_forward_over_reference"] = found[f"{name}_forward_images_per_s"] / REFERENCE_IMAGES_PER_S
            made[f"{name}_prediction_over_reference"] = whole / REFERENCE_PREDICTION_S
            made[f"{name}_step_over_fastest_reference"] = found[f"{name}_step_s"] / REFERENCE_STEP_S[0]
    for n in (1, 2):
        compact, full = (found[f"{head}_{n}_threads_step_s"] for head in ("compact", "full"))
        made[f"step_compact_over_full_{n}_threads"] = compact / full
    return made


def on_device(small: bool, repeats: int, device: torch.device) -> Iterator[tuple[str, Figures]]:
    """Yield the rates of steps and predictions, and what bf16 changes in probabilities."""
    n, config = SMALL_GPU_BATCH if small else GPU_BATCH, configs(small)["compact"]
    steps = {"pretrain": (pretraining, config)}
    steps |= {f"supervised, {head} head": (supervised, config) for head, config in configs(small).items()}
    for what, (make, settings) in steps.items():

        def at(precision: torch.dtype, compiled: bool, make=make, settings=settings) -> Callable[[], None]:
            return make(settings, n, device, precision, compiled)

        yield f"{what}, batch {n}", rates(at, n, repeats, FLOOR_S, device)
    model, images = Classifier(config).to(device), slices(n, config, device)
    found = {}
    for n_passes in (0, N_PASSES):
        found[f"{n_passes}_passes_samples_per_s"] = n / seconds(lambda k=n_passes: model.predict(images, k), repeats)
    exact = model.predict(images).raw
    with autocast(device, torch.bfloat16):
        found["bf16_largest_change_of_probability"] = (model.predict(images).raw - exact).abs().max().item()
    yield "prediction", found


if __name__ == "__main__":
    main(__doc__, on_processor)
