"""Claiming a device: jobs that know nothing of each other never share a GPU."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from neuropipe.errors import LockedError
from neuropipe.train import devices


@pytest.fixture
def two_gpus(monkeypatch, tmp_path):
    """A machine with two GPUs, as far as torch tells."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"gpu-{index}"))
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def test_two_jobs_get_two_gpus_and_a_third_is_told(two_gpus):
    with devices.claim() as first, devices.claim() as second:
        assert {str(first), str(second)} == {"cuda:0", "cuda:1"}
        with pytest.raises(LockedError, match="All 2 GPUs are held"), devices.claim():
            pass
    with devices.claim() as again:
        assert str(again) == "cuda:0"


def test_torchrun_begins_at_the_rank_and_leaves_other_jobs_their_gpu(two_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with devices.claim() as device:
        assert str(device) == "cuda:1"
        with devices.claim() as second:  # a job of several GPUs beside another one
            assert str(second) == "cuda:0"


def test_without_a_gpu_the_processor(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = torch.get_num_threads()
    with devices.claim(threads=1) as device:
        assert device.type == "cpu" and torch.get_num_threads() == 1
    torch.set_num_threads(before)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's mallopt")
def test_freed_memory_is_used_again_and_not_cleared_again():
    """A process that keeps it asks the system for the pages of a large array once, not at every step."""
    code = (
        "import resource, sys, numpy as np\n"
        "kept = True\n"
        "if sys.argv[1] == 'keep':\n"
        "    from neuropipe.train.devices import keep_freed_memory\n"
        "    kept = keep_freed_memory()\n"
        "for step in range(8):\n"
        "    if step == 1: begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    np.ones(8_000_000)\n"
        "print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun)\n"
    )
    found = {}
    for what in ("keep", "leave"):
        said = subprocess.run([sys.executable, "-c", code, what], capture_output=True, text=True, check=True).stdout
        kept, faults = said.split()
        assert kept == "True"
        found[what] = int(faults)
    assert found["keep"] < 0.1 * found["leave"]
