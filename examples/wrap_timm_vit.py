"""The whole idea: wrap a timm model, train it with two cycles, run it with one.

python examples/wrap_timm_vit.py
"""

import argparse

import timm
import torch
from sklearn.datasets import load_digits

from cycledistill import CycleDistillLoss, CycleWrapper

argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()  # for --help
torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16  # [1797, 1, 8, 8]
labels = torch.tensor(digits.target)
train, val = slice(0, 1400), slice(1400, None)

model = timm.create_model(
    "vit_tiny_patch16_224",
    img_size=8,
    patch_size=2,
    in_chans=1,
    embed_dim=48,
    depth=3,
    num_heads=3,
    num_classes=10,
)
cycled = CycleWrapper(model, num_cycles=2)  # finds model.blocks
criterion = CycleDistillLoss(torch.nn.CrossEntropyLoss())
optimizer = torch.optim.AdamW(cycled.parameters(), lr=2e-3)


def accuracy(num_cycles: int) -> float:
    cycled.eval()
    with torch.no_grad():
        predicted = cycled(images[val], num_cycles=num_cycles).argmax(1)
    cycled.train()
    return 100 * (predicted == labels[val]).float().mean().item()


cycled.train()
for epoch in range(1, 16):
    for batch in torch.randperm(1400).split(64):
        losses = criterion(cycled(images[train][batch]), labels[train][batch])
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    print(f"epoch {epoch:2}: top-1 {accuracy(1):.1f} % with 1 cycle, {accuracy(2):.1f} % with 2")

cycled.eval()
with torch.no_grad():
    before = cycled(images[val])
    plain = cycled.unwrap()
    assert plain is model
    assert torch.equal(plain(images[val]), before)
print("unwrapped: the same plain timm model, with the same predictions to the last bit")
