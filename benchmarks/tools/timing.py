"""Timing a network: CPU seconds, or wall seconds of a GPU, in float32, bf16 and compiled, with memory."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from neuropipe.data.batch import Batch
from neuropipe.train.devices import keep_freed_memory

Figures = dict[str, float]
# name: precision, compiled
WAYS = {"float32": (torch.float32, False), "bf16": (torch.bfloat16, False), "bf16_compiled": (torch.bfloat16, True)}


def wait() -> None:
    """Let a GPU finish."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], repeats: int, clock: Callable[[], float] | None = None) -> float:
    """Return the median seconds of `work`, called once before: of the processor, or of the wall beside a GPU."""
    clock = clock or (time.perf_counter if torch.cuda.is_available() else time.process_time)
    work()
    taken = []
    for _ in range(repeats):
        wait()
        begun = clock()
        work()
        wait()
        taken.append(clock() - begun)
    return max(statistics.median(taken), 1e-9)


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Return the context in which a step of this precision runs."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


def rates(
    make: Callable[[torch.dtype, bool], Callable[[], object]],
    n_samples: int,
    repeats: int,
    floor_s: float | None,
    device: torch.device,
) -> Figures:
    """Return samples per second, peak memory and the share of the floor, for every way of computing.

    Parameters
    ----------
    make : function of (precision, compiled)
        Returns one step on `n_samples` samples.
    floor_s : float or None
        Seconds per sample that nothing can be faster than (see docs/performance.md), where they are known.
    device : torch.device
        Of the step; only what runs on a GPU is compiled too.
    """
    found = {}
    for name, (precision, compiled) in WAYS.items():
        if compiled and device.type != "cuda":
            continue
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        taken = seconds(make(precision, compiled), repeats)
        found[f"{name}_samples_per_s"] = n_samples / taken
        if floor_s is not None:
            found[f"{name}_floor_share"] = n_samples * floor_s / taken
        if device.type == "cuda":
            found[f"{name}_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        torch.compiler.reset()
    return found


def bf16_change(model: torch.nn.Module, batch: Batch) -> Figures:
    """Return the smallest cosine between embeddings in float32 and in bf16."""
    with torch.inference_mode():
        exact = model.embed(batch)
        with autocast(batch.device, torch.bfloat16):
            rough = model.embed(batch).float()
    return {"bf16_cosine_min": torch.nn.functional.cosine_similarity(exact, rough).min().item()}


def report(found: Figures, width: int = 52) -> None:
    """Print one figure a line."""
    for name, value in found.items():
        print(f"{name:<{width}}{value:.4g}", flush=True)


def arguments(doc: str, repeats: int = 3) -> argparse.ArgumentParser:
    """Return the parser that every benchmark of a network has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small model, to test the script")
    parser.add_argument("--repeats", type=int, default=repeats)
    return parser


def main(doc: str, on_processor: Callable[[bool, int], Figures], repeats: int = 3) -> None:
    """Measure on the processor and end with one JSON line."""
    chosen = arguments(doc, repeats).parse_args()
    keep_freed_memory()  # as every command that trains
    torch.manual_seed(0)
    print(json.dumps(on_processor(chosen.small, chosen.repeats)))
