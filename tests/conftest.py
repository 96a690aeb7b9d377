"""What every test gets: one thread, one seed, no network, and the real data where it is."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Callable
from pathlib import Path

# Before any library reads them, and for the processes that tests start.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest
import torch

hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    no_gpu = pytest.mark.skip(reason="needs a CUDA device; torch.cuda.is_available() is False")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(no_gpu)


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # the engine ends workers that are left, whose loaders it finds by `gc`


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests run side by side: more threads than cores would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def short_collections() -> None:
    """Garbage is looked for among a module's own objects, not in all that the libraries hold.

    Some of them collect it after every run, which takes longer than what a small test computes.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers for a test, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("tiny_coco")` is the folder of that data set; skips where there is none."""

    def folder(name: str) -> Path:
        root = os.environ.get("CYCLEDISTILL_DATA")
        if not root:
            pytest.skip(f"needs real data: set CYCLEDISTILL_DATA to the folder that has {name}/")
        path = Path(root) / name
        if not path.is_dir():
            raise FileNotFoundError(f"CYCLEDISTILL_DATA={root} has no folder {name}/")
        return path

    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent
