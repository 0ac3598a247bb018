"""The models are tiny: one thread is faster than several that wait for each other."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Run torch on one thread."""
    torch.set_num_threads(1)
