"""A program ends after an error in a data worker, which ignores signals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pathlib import Path
import torch
from torch import nn
from cycledistill import CycleDistillLoss, CycleWrapper
from cycledistill.training import TrainConfig, fit
from cycledistill.training.processes import evaluation_loader

class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 5:
            raise ValueError("sample 5 is broken")
        return torch.ones(3, 4)

if sys.argv[2] == "evaluation":
    for batch in evaluation_loader(Broken(), batch_size=2, num_workers=2):
        pass
model = CycleWrapper(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), 2)
config = TrainConfig(Path(sys.argv[1]), epochs=1, batch_size=2, num_workers=2, device="cpu")
fit(
    config,
    model=model,
    criterion=CycleDistillLoss(nn.MSELoss()),
    optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    train_dataset=Broken(),
    forward_loss=lambda model, criterion, batch: (criterion(model(batch), batch), len(batch)),
)
"""


@pytest.mark.parametrize("loader", ["training", "evaluation"])
def test_an_error_in_a_worker_ends_the_program(tmp_path: Path, loader: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(tmp_path / "run"), loader]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert "ValueError: sample 5 is broken" in done.stderr
    assert "atexit" not in done.stderr
