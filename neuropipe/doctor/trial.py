"""What the doctor's trial job runs on a node: look around, and write down what is there.

python -m neuropipe.doctor.trial ANSWER.json PATH...
"""

from __future__ import annotations

import os
import platform
import socket
import sys
from importlib import metadata
from pathlib import Path

from neuropipe.provenance import write_json

PACKAGES = ("neuropipe", "torch", "numpy", "snakemake")


def versions() -> dict[str, str]:
    """Return what must agree between the computer that submits and those that compute."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def gpus() -> dict[str, object]:
    """Return how many GPUs torch can use here, and which ones the scheduler granted."""
    import torch

    granted = os.environ.get("CUDA_VISIBLE_DEVICES") or os.environ.get("ROCR_VISIBLE_DEVICES") or ""
    return {"usable": torch.cuda.device_count(), "granted": granted}


def main(answer: Path, paths: list[Path]) -> None:
    """Write the answer beside where it is waited for; that it arrives shows that the folder is shared."""
    facts = {"host": socket.gethostname(), "versions": versions(), "gpus": gpus()}
    facts["unreadable"] = [str(path) for path in paths if not os.access(path, os.R_OK)]
    write_json(answer, facts)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]])
