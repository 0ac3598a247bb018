"""Which device a command computes on: a free GPU, claimed by a lock file, or the processor."""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from neuropipe.errors import ConfigError, LockedError
from neuropipe.locks import lock

# Of glibc's mallopt.
TRIM_THRESHOLD, MMAP_MAX = -1, -4
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed for the next step, where it is glibc; return whether it does.

    Otherwise every large array of every step is given back to the system and asked for again, and each of its pages
    is cleared: a tenth of a step of Brain-Semantoks, half the time of preparing a batch of series.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, LARGEST_INT))


def name(device: torch.device) -> str:
    """Return what a device is called: the GPU's own name, or ``processor``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"


def _lock_path(index: int) -> Path:
    """Return the lock file of a GPU; its uuid is the same in every process, whatever is visible there."""
    uuid = getattr(torch.cuda.get_device_properties(index), "uuid", index)
    return Path(tempfile.gettempdir()) / f"neuropipe-gpu-{os.getuid()}" / f"{uuid}.lock"


@contextlib.contextmanager
def claim(threads: int | None = None) -> Iterator[torch.device]:
    """Yield a free CUDA device, held until the block ends; without any, the processor.

    Snakemake counts GPUs but never says which one a job gets, so jobs agree through one lock file
    per device; so do the processes of ``torchrun``, which share their threads, each beginning at its local rank.

    Parameters
    ----------
    threads : int, optional
        Processor threads of torch; default torch's own choice.

    Raises
    ------
    LockedError
        There are GPUs, and all of them are held.
    """
    if threads is not None:
        torch.set_num_threads(max(1, threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if not torch.cuda.is_available():
        keep_freed_memory()
        yield torch.device("cpu")
        return
    n_gpus, first = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    with contextlib.ExitStack() as stack:
        for index in ((first + i) % n_gpus for i in range(n_gpus)):
            try:
                stack.enter_context(lock(_lock_path(index), wait_s=0))
            except LockedError:
                continue
            device = torch.device("cuda", index)
            break
        else:
            raise LockedError(
                f"All {n_gpus} GPUs are held by other neuropipe jobs of this user; wait for one, "
                "or start snakemake with --resources gpu=<number of GPUs>."
            )
        torch.cuda.set_device(device)
        yield device


def check(device: torch.device | str, needs_gpu: bool, what: str) -> None:
    """Raise where training needs a GPU and would run on a processor; `what` names the recipe."""
    if needs_gpu and torch.device(device).type != "cuda":
        raise ConfigError(
            f"{what}: needs_gpu: true, but torch {torch.__version__} sees no GPU on this machine. Ask the cluster for "
            "one (resources: gpu, a GPU partition), check the driver with `nvidia-smi`, or set needs_gpu: false."
        )
