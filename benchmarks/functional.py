"""Families of functional series at their published sizes, on one thread of the processor.

    python benchmarks/functional.py            # some minutes; against the figures of the references
    python benchmarks/functional.py --small    # seconds, for a test of this script

Of learning-from-brains: windows per CPU second from memory-mapped shards until a network could begin (cut, drawn,
masked, paired), operators per batch of 192, and the share of a training step (forward and backward) that this takes.
Of Brain-Semantoks: see benchmarks/semantoks.py. Of NeuroCLR: series per CPU second through the released encoder.
References are the published code's: its loader on one core (400 windows/s of CSM, 230 of BERT) and its 72,000 to
120,000 operators. The last line is JSON.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import semantoks
import torch
from tools.timing import Figures, autocast, bf16_change, main, rates, report, seconds

from neuropipe import models
from neuropipe.data.batch import Batch
from neuropipe.data.recordings import Recordings
from neuropipe.models.base import ClipSpec
from neuropipe.shards import manifest
from neuropipe.shards.read import Shards
from neuropipe.shards.sample import Sample, pack
from neuropipe.shards.write import write_tar
from neuropipe.signals.regions import Regions

# Their defaults have the released sizes and the corrected objectives.
FRAMEWORKS = ("csm", "sequence_bert", "network_bert", "autoencoder", "linear_baseline")
REFERENCE_WINDOWS_PER_S = {"csm": 400, "sequence_bert": 230}
BATCH, LARGE_BATCH, STEP_BATCH = (
    64,
    192,
    24,
)  # blocks of memory above 32 MB, as of 192 windows, are fetched anew each time
SERIES = 2048  # of NeuroCLR in one batch
# Seconds per sample on an H200: 9.0 GFLOP, and 18.7 GFLOP of 103 tokens, of which a pair has 58.
FLOORS_S = {"csm": 11.4e-6, "sequence_bert": 23.7e-6 * 58 / 103, "network_bert": 23.7e-6 * 58 / 103}


def recordings(folder: Path, n_regions: int, n_people: int) -> Recordings:
    """Return random recordings of 300 samples in shards of float16, memory-mapped."""
    rng = np.random.default_rng(0)
    people = [f"sub-{n:03d}" for n in range(n_people)]

    def samples() -> Iterator[Sample]:
        for person in people:
            series, valid = pack(rng.standard_normal((300, n_regions), dtype=np.float32), "float16")
            facts = {"dataset": "shards", "participant_id": person, "run_id": f"{person}_task-rest", "t_r": 2.0}
            yield Sample(f"shards_{person}_task-rest", series, valid, facts)

    rows = write_tar(folder / "chunk-00-000.tar", samples())
    manifest.write_parquet(folder / "manifest.parquet", manifest.from_rows(rows))
    Regions.plain("difumo1024", n_regions).write(folder / "regions.tsv")
    (folder / "participants.tsv").write_text("\n".join(["participant_id", *people]) + "\n")
    return Recordings([Shards(folder, folder / "participants.tsv")], residence="mapped")


def build(family: str, small: bool, regions: Regions) -> torch.nn.Module:
    """Return a family's model at its published sizes, or a small one."""
    torch.manual_seed(0)
    config = models.load(family).Config
    tiny = {"embed_dim": 16, "num_heads": 2, "depth": 1}
    tiny = {name: value for name, value in tiny.items() if small and name in config.model_fields}
    return models.load(family).Model(config.model_validate(tiny), regions)


def n_operators(work) -> int:
    """Return how many operators of torch `work` calls."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    return sum(event.count for event in profile.key_averages() if event.key.startswith("aten::"))


def framework(family: str, source: Recordings, small: bool, repeats: int) -> Figures:
    """Return the figures of one family of learning-from-brains."""
    model, generator = build(family, small, source.regions), torch.Generator()
    spec: ClipSpec = model.config.reads()
    batch_size, large, steps = (8, 16, 8) if small else (BATCH, LARGE_BATCH, STEP_BATCH)
    number = iter(range(10**9))

    def prepare(size: int = batch_size) -> None:
        batch = source.training_batch(spec, size, 0, next(number))
        if hasattr(model, "prepare"):
            model.prepare(batch, generator)

    def step() -> None:
        model.loss(source.training_batch(spec, steps, 0, next(number)), generator, 0.0)["loss"].backward()
        model.zero_grad(set_to_none=True)

    prepared = seconds(prepare, 5 * repeats)
    taken = seconds(step, 1 if small else repeats)
    found = {
        "windows_per_s": batch_size / prepared,
        "windows_per_s_in_large_batches": large / seconds(lambda: prepare(large), 5 * repeats),
        "operators": float(n_operators(lambda: prepare(large))),
        "step_s_per_window": taken / steps,
    }
    if family != "linear_baseline":  # whose step is one weighted sum
        found["share_of_step"] = (prepared / batch_size) / (taken / steps)
    if family in REFERENCE_WINDOWS_PER_S and not small:
        found["times_the_reference"] = found["windows_per_s"] / REFERENCE_WINDOWS_PER_S[family]
    return {f"{family}_{name}": value for name, value in found.items()}


def neuroclr(small: bool, repeats: int) -> Figures:
    """Return how many series the released encoder maps in a CPU second."""
    if "neuroclr" not in models.names():
        return {}
    family = models.load("neuroclr")
    encoder, n = family.SeriesEncoder(family.Config.published()), 32 if small else SERIES
    series = torch.randn(n, 1, family.Config.published().n_samples)
    with torch.inference_mode():
        return {"neuroclr_series_per_s": n / seconds(lambda: encoder.encode(series), 5 * repeats)}


def on_processor(small: bool, repeats: int) -> Figures:
    """Measure all families on one thread."""
    torch.set_num_threads(1)
    found: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        source = recordings(Path(folder), 64 if small else 1024, 24 if small else 2 * LARGE_BATCH)
        for family in FRAMEWORKS:
            measured = framework(family, source, small, repeats)
            report(measured)
            found |= measured
    measured = {f"semantoks_{name}": value for name, value in semantoks.on_processor(small, repeats).items()}
    measured |= neuroclr(small, repeats)
    report(measured)
    return found | measured


def on_device(small: bool, repeats: int, device: torch.device) -> Iterator[tuple[str, Figures]]:
    """Yield the rates of steps (forward and backward), and what bf16 changes in embeddings, family by family."""
    regions = Regions.plain("difumo1024", 64 if small else 1024)
    for family in (*FRAMEWORKS[:-1], "neuroclr"):
        model, generator = build(family, small, regions).to(device), torch.Generator(device=device)
        spec, n = model.config.reads(), 4 if small else 64 if family == "neuroclr" else LARGE_BATCH
        shape = (n * spec.n_views, spec.n_samples, len(regions))
        batch = Batch.of_series(torch.randn(shape, device=device), n_views=spec.n_views)

        def make(precision: torch.dtype, compiled: bool, model=model, batch=batch, generator=generator) -> Callable:
            loss_of = torch.compile(model.loss) if compiled else model.loss

            def step() -> None:
                with autocast(device, precision):
                    loss = loss_of(batch, generator, 0.0)["loss"]
                loss.backward()
                model.zero_grad(set_to_none=True)

            return step

        yield f"{family}, batch {n}", rates(make, n, repeats, FLOORS_S.get(family), device)
        model.eval()
        yield f"{family}, embedding", bf16_change(model, batch)


if __name__ == "__main__":
    main(__doc__, on_processor, repeats=3)
