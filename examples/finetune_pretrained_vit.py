"""Fine-tune a pretrained timm model on a few images in gated cycles, and save the plain model.

python examples/finetune_pretrained_vit.py    # offline: knows the digits 0 to 4, learns 5 to 9
python examples/finetune_pretrained_vit.py --images FOLDER --model vit_small_patch16_224 --lr 1e-4
"""

import argparse
from pathlib import Path

import timm
import torch
from sklearn.datasets import load_digits
from timm.data import create_transform, resolve_model_data_config
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split

from cycledistill import CycleDistillLoss, CycleWrapper, suggest_blocks
from cycledistill_deit import ClassificationConfig, load_data

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--images", type=Path, help="folder with train/CLASS/* and val/CLASS/*")
parser.add_argument("--model", default="vit_small_patch16_224", help="timm's or local-dir:FOLDER")
parser.add_argument("--blocks", help="blocks to cycle, such as blocks.4:8; default: as suggested")
parser.add_argument("--num-cycles", type=int, default=2, help="1 for plain fine-tuning")
parser.add_argument("--epochs", type=int, default=30, help="of fine-tuning")
parser.add_argument("--lr", type=float, default=1e-3, help="largest rate of AdamW")
parser.add_argument("--output", type=Path, default=Path("runs/finetuned"), help="folder to write")
options = parser.parse_args()


def train(cycled: CycleWrapper, data: Dataset, epochs: int, lr: float) -> None:
    criterion = CycleDistillLoss(torch.nn.CrossEntropyLoss(), task_cycles="mean")
    optimizer = torch.optim.AdamW(cycled.parameters(), lr=lr)
    cycled.train()
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = lr * min(1, (epoch + 1) / 5) * (1 - epoch / epochs)
        for images, labels in DataLoader(data, batch_size=32, shuffle=True):
            optimizer.zero_grad()
            criterion(cycled(images), labels).total.backward()
            optimizer.step()


@torch.no_grad()
def accuracy(num_cycles: int) -> float:
    cycled.eval()
    right = [cycled(x, num_cycles=num_cycles).argmax(1) == y for x, y in DataLoader(val, 256)]
    return 100 * torch.cat(right).float().mean().item()


torch.manual_seed(0)
size, names = dict[str, int](), tuple[str, ...]()
if options.images is not None:
    model = timm.create_model(options.model, pretrained=True)
    transform = create_transform(**resolve_model_data_config(model))
    try:
        few, val, names = load_data(ClassificationConfig(data_dir=options.images), transform)
    except (OSError, ValueError) as error:
        parser.error(str(error).replace("--data-dir", "--images"))
    few.transform = transform  # type: ignore[attr-defined]  # without augmentation
    model.reset_classifier(len(names))
else:
    size = {"img_size": 8, "patch_size": 2, "embed_dim": 48, "depth": 6}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, **size)
    model.pretrained_cfg.update(input_size=(3, 8, 8))
    pixels, digits = map(torch.tensor, load_digits(return_X_y=True))
    images = pixels.float().reshape(-1, 1, 8, 8).expand(-1, 3, -1, -1) / 8 - 1
    old, new = (TensorDataset(images[part], digits[part]) for part in (digits < 5, digits >= 5))
    pretraining = CycleWrapper(model, num_cycles=1)
    train(pretraining, old, epochs=15, lr=2e-3)
    pretraining.unwrap()
    few, val = random_split(new, (200, len(new) - 200))  # type: ignore[assignment]

blocks = options.blocks or suggest_blocks(model, next(iter(DataLoader(few, 64)))[0]).blocks
cycled = CycleWrapper(model, options.num_cycles, blocks, gate=True)  # starts as the plain model
print(f"{cycled.num_cycles} cycle(s) through {blocks}")
train(cycled, few, options.epochs, options.lr)
for n in range(1, options.num_cycles + 1):
    print(f"{accuracy(n):.1f} % in {n} cycle(s)")
timm.models.save_for_hf(cycled.unwrap(), options.output, {"label_names": names}, model_args=size)
print(f"the plain model: timm.create_model('local-dir:{options.output}', pretrained=True)")
