"""The quick loop: several seeds of a run, from their configs to their records."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_map

from experiments._exits import early_exits
from experiments._image_classes import Classes
from experiments._image_goal import Goal
from experiments._image_people import Coordinates, Heatmaps
from experiments._image_run import ImageRun
from experiments._image_views import Views
from experiments._record import commit, record
from experiments._results import save_weights, weights_file
from experiments._train import macs_of_cycles
from experiments._vit import SIZES, Found, SeededViT, initial_weights, plain_model, stacked

GOALS: Mapping[str, Any] = {
    "cifar10": Classes,
    "lspet": Heatmaps,
    "lspet-coordinates": Coordinates,
}

_CHECKPOINT_SECONDS = 60.0
_FORWARD_AND_BACKWARD = 3
_COMPILED_FROM = 1e9  # pixels of a run, for which compiling takes less than it saves


def train_seeds(
    configs: Sequence[ImageRun], work: Path, device: str = "auto"
) -> list[dict[str, Any]]:
    """Train runs that differ in their seeds alone, at once, and return a record for each.

    The metrics are those of the last step's weights; no step is picked. The weights are kept, see
    `weights_file`; those of the teachers must stand there.

    Args:
        configs: The runs.
        work: Folder of weights, decoded images and unfinished runs.
        device: As torch names it; auto takes a GPU where there is one.

    Raises:
        ValueError: The runs differ in more than their seeds.
    """
    config = configs[0]
    if any(one.seeded(0) != config.seeded(0) for one in configs):
        raise ValueError(f"expected runs that differ in their seeds alone, got {configs}")
    revision, start = commit(), time.perf_counter()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = True
    goal: Goal = GOALS[config.task](config, [one.seed for one in configs], work, device)
    teachers = [
        SeededViT(own[0], stacked([load_file(weights_file(one.key, work), device) for one in own]))
        for own in zip(*(one.teachers for one in configs), strict=True)
    ]
    weights, resumed = _trained(configs, goal, teachers, work)
    model = SeededViT(config, weights)
    scores = _scores(model, teachers, goal)
    cost = _cost(config, goal.available)
    seconds = (time.perf_counter() - start) / len(configs)
    records = []
    for place, one in enumerate(configs):
        finite = all(bool(value[place].isfinite().all()) for value in weights.values())
        own = {name: value[place].cpu() for name, value in weights.items()}
        save_weights(own, weights_file(one.key, work), None)
        metrics = {name: round(float(values[place]), 4) for name, values in scores.items()}
        records.append(
            record(
                one,
                revision,
                goal.images.device,
                {**cost, "resumed": resumed},
                seconds,  # a seed's share of the time of all that were trained at once
                metrics if finite else {},
                "" if finite else "non-finite weights",
            )
        )
    return records


def _trained(
    configs: Sequence[ImageRun], goal: Goal, teachers: list[SeededViT], work: Path
) -> tuple[dict[str, Tensor], bool]:
    """The weights behind the last step, and whether the run was stopped before."""
    config, data = configs[0], goal.images
    device = data.device
    first = stacked([initial_weights(one) for one in configs])
    weights = {name: value.to(device) for name, value in first.items()}
    if config.warm:
        begun = teachers[0].weights
        later = {f"later.{name}": value for name, value in begun.items()}
        weights = {name: {**later, **begun}.get(name, own).clone() for name, own in weights.items()}
    for value in weights.values():
        value.requires_grad_()
    optimizer = torch.optim.AdamW(
        weights.values(), lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
    folder = work / f"{'-'.join(str(one.seed) for one in configs)}-{config.key}"
    state, begin = folder / "state.pt", 0
    resumed = state.exists()
    if resumed:
        kept = torch.load(state)
        begin = kept["epoch"]
        optimizer.load_state_dict(kept["optimizer"])
        for name, value in weights.items():
            value.data.copy_(kept["weights"][name])
        for own, numbers in zip(data.generators, kept["generators"], strict=True):
            own.set_state(numbers)
    torch.manual_seed(config.seed + begin)  # dropout's
    model = SeededViT(config, weights, training=True)
    steps = len(data) // config.batch_size
    total, saved = config.epochs * steps, time.monotonic()
    compiled = total * config.batch_size * SIZES[config.task].side ** 2 >= _COMPILED_FROM
    loss_of: Any = torch.compile(_loss) if compiled else _loss
    ask: Any = torch.compile(_outputs) if compiled else _outputs
    views = _views(configs, len(data), begin)
    for epoch in range(begin, config.epochs):
        orders = data.orders()
        places = views.places(epoch) if views else None
        for number in range(steps):
            optimizer.param_groups[0]["lr"] = config.lr * _schedule(
                epoch * steps + number, total, round(config.warmup * total)
            )
            chosen = orders[:, number * config.batch_size : (number + 1) * config.batch_size]
            images, truth = goal.batch(chosen, places)
            shares = data.shares() if config.mixup else None
            with torch.autocast(
                device.type, torch.bfloat16, enabled=config.precision == "bfloat16"
            ):
                told = None
                if views:
                    told = views.told(epoch, chosen, partial(ask, teachers, images))
                loss = loss_of(model, teachers, images, truth, shares, told)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if time.monotonic() - saved > _CHECKPOINT_SECONDS:
            folder.mkdir(parents=True, exist_ok=True)
            kept = {
                "epoch": epoch + 1,
                "weights": {name: value.detach() for name, value in weights.items()},
                "optimizer": optimizer.state_dict(),
                "generators": [own.get_state() for own in data.generators],
            }
            torch.save(kept, folder / "new.pt")
            os.replace(folder / "new.pt", state)
            saved = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    return {name: value.detach() for name, value in weights.items()}, resumed


def _views(configs: Sequence[ImageRun], images: int, begin: int) -> Views | None:
    """The views that come again, if they do."""
    count, batch = configs[0].views, configs[0].batch_size
    if not count:
        return None
    if images % batch:
        raise ValueError(f"views need batches that divide {images} images, got batch_size={batch}")
    return Views(count, [one.seed for one in configs], images, begin)


def _schedule(step: int, total: int, warmup: int) -> float:
    """Linear warm-up, then half a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def _loss(
    model: SeededViT,
    teachers: list[SeededViT],
    images: Tensor,
    truth: Any,
    shares: Tensor | None = None,
    told: Sequence[Tensor] | None = None,
) -> Tensor:
    """The seeds' losses, summed, so that each seed's gradient is that of its own loss.

    With ``shares`` `[S]` images, and what is known of them, are mixed with those before them in the
    batch. With ``told``, the teachers' outputs for the images as they were, they are not asked.
    """
    config = model.config
    goal = GOALS[config.task]
    if shares is not None:
        share = shares[:, None, None, None, None]
        images = share * images + (1 - share) * images.roll(1, 1)
    if told is None:
        taught = _asked(teachers, images)
    else:  # of tokens nothing is kept
        taught = [Found(outputs, outputs[..., :0]) for outputs in told]
    found = model.cycles(images, config.cycles, every=config.every_cycle)

    def mixed(loss_of: Callable[[Any], Tensor], known: Any) -> Tensor:
        losses = loss_of(known)
        if shares is not None:
            before = tree_map(lambda values: values.roll(1, 1), known)
            losses = shares * losses + (1 - shares) * loss_of(before)
        return losses.sum()

    def truth_loss(outputs: Tensor) -> Tensor:
        return mixed(lambda own: goal.truth_loss(outputs, own, config.label_smoothing), truth)

    def teaching_loss(outputs: Tensor, taught: list[Tensor]) -> Tensor:
        def loss_of(own: list[Tensor]) -> Tensor:
            return goal.teaching_loss(outputs, own, config.temperature)

        return mixed(loss_of, taught) if told else loss_of(taught).sum()

    truths = [truth_loss(one.outputs) for one in found]
    if not teachers:
        later = [[one.outputs.detach()] for one in found[1:]]
        pairs = zip(found[:-1], later, strict=True)
        joint = sum(goal.teaching_loss(one.outputs, target, 1.0).sum() for one, target in pairs)
        return torch.stack(truths).mean() + config.prediction_weight * joint
    targets = [taught]
    if config.every_cycle:
        targets = [[one] for one in (taught if len(taught) > 1 else taught * len(found))]
    loss = images.new_zeros(())
    for one, own_truth, own in zip(found, truths, targets, strict=True):
        divergence = teaching_loss(one.outputs, [teacher.outputs for teacher in own])
        loss = loss + config.truth_weight * own_truth + (1 - config.truth_weight) * divergence
        if config.token_weight:
            loss = loss + config.token_weight * _token_distance(one, own[0])
    return loss / len(found)


@torch.no_grad()
def _asked(teachers: list[SeededViT], images: Tensor) -> list[Found]:
    """What frozen teachers find."""
    return [own.cycles(images, own.config.used)[0] for own in teachers]


def _outputs(teachers: list[SeededViT], images: Tensor) -> list[Tensor]:
    return [one.outputs for one in _asked(teachers, images)]


def _token_distance(student: Found, teacher: Found) -> Tensor:
    ours, theirs = (
        functional.layer_norm(one.tokens, one.tokens.shape[-1:]) for one in (student, teacher)
    )
    return len(ours) * functional.mse_loss(ours, theirs)


@torch.no_grad()
def _scores(model: SeededViT, teachers: list[SeededViT], goal: Goal) -> dict[str, Tensor]:
    """Percent after 1, 2, ... cycles, with early exit, and of the teachers together, each `[S]`."""
    splits = {"val": goal.val, "test": goal.test}
    predicted = {
        name: _predictions(model, teachers, goal, split.images) for name, split in splits.items()
    }
    scores = {
        f"{name}/{model.config.metric}/{kind}": goal.score(one, splits[name])
        for name in splits
        for kind, one in predicted[name].items()
    }
    if model.config.every_cycle and goal.has_classes:
        chosen_on, logits = (list(predicted[name].values()) for name in ("val", "test"))
        exits = early_exits(chosen_on, logits, goal.test.labels)
        scores |= {f"test/exit/{name}": values for name, values in exits.items()}
    return scores


def _predictions(
    model: SeededViT, teachers: list[SeededViT], goal: Goal, images: Tensor
) -> dict[str, Tensor]:
    """Outputs after each cycle, by its number, and of the teachers together, `[S, images, ...]`."""
    config, data = model.config, goal.images
    outputs: dict[str, list[Tensor]] = {}
    for part in images.split(250):
        normed = data.normalized(part.to(data.device)).expand(len(data.generators), *part.shape)
        found = model.cycles(normed, max(2, config.cycles), every=True)
        for number, one in enumerate(found, 1):
            outputs.setdefault(f"{number}", []).append(one.outputs.cpu())
        if teachers and not config.every_cycle:
            told = [own.cycles(normed, own.config.used)[0].outputs for own in teachers]
            outputs.setdefault("teachers", []).append(goal.together(told).cpu())
    return {kind: torch.cat(parts, 1) for kind, parts in outputs.items()}


def _cost(config: ImageRun, found: int) -> dict[str, Any]:
    """What training and use cost an ordinary program, which computes every token.

    ``found`` is the number of all training images.

    Training has the forward and the backward pass, taken to be three forward passes, the frozen
    teachers' forward passes, and the teachers' own training.
    """
    samples = found if config.unlabelled else config.train_samples or found
    used = samples // config.batch_size * config.batch_size * config.epochs
    told = used * min(config.views or config.epochs, config.epochs) // config.epochs
    taught = sum(_macs(own, own.used) for own in config.teachers) * told
    before = sum(_cost(own, found)["training_macs"] for own in config.teachers)
    own = _FORWARD_AND_BACKWARD * _macs(config, config.cycles) * used
    return {
        "epochs": config.epochs,
        "training_macs": own + taught + before,
        "student_macs": own + taught,
        "macs_in_use": _macs(config, config.used),
    }


def _macs(config: ImageRun, cycles: int) -> int:
    """Of one image with so many cycles; what adapters and norms add is not counted."""
    side, read, outputs = SIZES[config.task]
    tokens = torch.zeros(1, read + (side // config.patch_size) ** 2, config.width)
    image = torch.zeros(1, 3, side, side)
    heads = (read - 1) * config.width * outputs  # timm's head is for one token
    return macs_of_cycles(plain_model(config), image, tokens, cycles) + heads
