"""Train a timm classifier in cycles and save the plain model (SDPose, section 4.5, table 9).

    python examples/deit_imagenet.py --data-dir /path/to/imagenet               # DeiT-Ti's recipe
    python examples/deit_imagenet.py --preset cifar10-cpu --data-dir cifar10    # grows and folds
    python examples/deit_imagenet.py --preset digits                            # no data needed

Grow a network with two cycles, then fold it into a plain one (docs/results/lab.md). The same in two
commands: --mode grow, then --mode fold --teacher FOLDER.

    python examples/deit_imagenet.py --preset digits --mode grow-fold

The folder contains train/CLASS/*.jpg and val/CLASS/*.jpg. A prefix selects Hugging Face data sets,
tar shards and other sources that timm reads (docs/classification.md):

    python examples/deit_imagenet.py --data-dir hfds/timm/mini-imagenet
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from timm.data import create_transform, resolve_model_data_config
from timm.optim import create_optimizer_v2

from cycledistill import CycleWrapper, count_macs
from cycledistill.training import (
    FitResult,
    WarmupCosine,
    budget_rows,
    find_trained,
    fit,
    parse_cli,
    report_console,
    run_cli,
    start_from,
)
from cycledistill.training.processes import (
    evaluation_loader,
    gather_over_processes,
    is_main_process,
)
from cycledistill_deit import (
    PRESETS,
    ClassificationConfig,
    MixupTargets,
    build_criterion,
    create_classifier,
    cycle_accuracies,
    example_input,
    load_data,
    load_plain,
    load_teachers,
    load_trained,
    save_plain,
)


def main() -> None:
    config = parse_cli(ClassificationConfig, presets=PRESETS, default="paper")
    config.validate()
    for stage in config.stages():
        train(stage)


def train(config: ClassificationConfig) -> None:
    """Train a classifier and save the plain model."""
    torch.manual_seed(config.seed)  # first weights do not depend on a stage before
    if config.data_dir is None and config.in_chans == 3:
        raise ValueError(
            "--data-dir is missing: name a folder with train/CLASS/*.jpg and val/CLASS/*.jpg or a "
            "data set such as hfds/NAME, or use --preset digits, which needs none"
        )
    data = load_data(config)
    num_classes = len(data.class_names)
    classifier = create_classifier(config, num_classes)
    teachers = load_teachers(config, data.class_names)
    digests = [find_trained(folder).digest for folder in config.teacher]
    of_teachers = {"teachers' weights": digests} if teachers else {}
    if teachers and config.warm_start:
        start_from(classifier, teachers[0], config.teacher[0])
    cycled = CycleWrapper(classifier, blocks=config.blocks, **config.wrapper_options())
    criterion = build_criterion(config, teachers)
    optimizer = create_optimizer_v2(
        cycled, opt="adamw", lr=config.scaled_lr, weight_decay=config.weight_decay
    )
    steps = config.steps_per_epoch(len(data.train))  # type: ignore[arg-type]
    schedule = WarmupCosine(
        total_steps=config.epochs * steps,
        warmup_steps=config.warmup_epochs * steps,
        start=config.warmup_lr / config.scaled_lr,
        end=config.min_lr / config.scaled_lr,
    )
    mixup = MixupTargets(config, num_classes)

    def forward_loss(model: Any, criterion: Any, batch: Any) -> Any:
        images, targets = mixup(*batch)
        seen = {"inputs": images} if teachers else {}
        return criterion(model(images), targets, **seen), len(images)

    def evaluate(model: CycleWrapper) -> dict[str, float]:
        batches = evaluation_loader(data.val, config.eval_batch_size, config.num_workers)
        return cycle_accuracies(model, batches, num_classes, config.training_cycles)

    result = fit(
        config,
        model=cycled,
        criterion=criterion,
        optimizer=optimizer,
        train_dataset=data.train,
        forward_loss=forward_loss,
        schedule=schedule,
        evaluate=evaluate,
        best_metric=f"accuracy/{config.inference_cycles}",
        summary={
            "images": config.data_dir or "scikit-learn's digits, as --data-dir is not given",
            **budget_rows(
                config,
                cycled,
                example_input(config),
                num_samples=len(data.train),  # type: ignore[arg-type]
            ),
        },
        settings={"classes": data.class_names, **of_teachers},
    )
    finish(config, result, data.val, data.class_names)


def finish(
    config: ClassificationConfig, result: FitResult, val: Any, class_names: tuple[str, ...]
) -> None:
    """Save the plain model, and check its accuracy when loaded with timm alone."""
    folder = Path(config.output_dir) / "plain"
    plain = result.model.unwrap()
    if is_main_process():
        save_plain(plain, config, class_names, folder, result.metrics)
    gather_over_processes([])  # wait for the files

    def accuracy(model: Any, images: Any) -> float:
        wrapped = CycleWrapper(model.eval(), num_cycles=1, blocks=config.blocks)
        batches = evaluation_loader(images, config.eval_batch_size, config.num_workers)
        return cycle_accuracies(wrapped, batches, len(class_names), num_cycles=1)["accuracy/1"]

    device = next(plain.parameters()).device
    loaded = load_plain(folder).to(device)
    transform = create_transform(**resolve_model_data_config(loaded))
    trained, again = accuracy(plain, val), accuracy(loaded, load_data(config, transform).val)
    if again != trained:
        raise RuntimeError(
            f"the model reloaded from {folder} has top-1 {again:.3f} %, the trained one "
            f"{trained:.3f} %"
        )
    others = compare(config, len(class_names), device)
    if is_main_process():
        report(config, result, folder, again, len(val))
        if others:
            report_console().print(others)


def compare(config: ClassificationConfig, num_classes: int, device: Any) -> Table | None:
    """The folded network, its teachers and other runs, each with its cost at inference."""
    if config.mode != "fold":
        return None
    table = Table(title="Each network as it is used")
    for column in ("network", "cycles", "MACs of an image", "top-1 accuracy"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for folder in (*config.beside, *config.teacher, Path(config.output_dir)):
        trained = load_trained(folder).eval().to(device)
        cycles = trained.num_cycles
        prepared = resolve_model_data_config(trained.plain)  # of this network, not of this run
        example = torch.zeros(1, *prepared["input_size"], device=device)
        macs = count_macs(trained, example, num_cycles=cycles).with_attention_products
        own = replace(config, in_chans=prepared["input_size"][0], mean=None, std=None)
        val = load_data(own, create_transform(**prepared)).val
        batches = evaluation_loader(val, config.eval_batch_size, config.num_workers)
        scores = cycle_accuracies(trained, batches, num_classes, cycles)
        accuracy = f"{scores[f'accuracy/{cycles}']:.2f} %"
        table.add_row(str(folder), f"{cycles}", f"{macs / 1e6:.2f} M", accuracy)
    return table


def report(
    config: ClassificationConfig, result: FitResult, folder: Path, again: float, num_images: int
) -> None:
    """Print the results, where the files are, and what to try next."""
    table = Table(title=f"Top-1 accuracy on {num_images:,} validation images")
    table.add_column("cycles in use")
    table.add_column("accuracy", justify="right")
    for name, value in result.metrics.items():
        if name.startswith("accuracy/"):
            table.add_row(name.removeprefix("accuracy/"), f"{value:.2f} %")
    table.add_row("1, reloaded with bare timm", f"{again:.2f} %")
    other = "grow-fold" if config.mode == "plain" else "plain"
    console = report_console()
    console.print(table)
    console.print(
        f"The plain model:  {folder} (model.safetensors, config.json and a model card)\n"
        f"                  timm.create_model('local-dir:{folder}', pretrained=True)\n"
        f"Cycles in use:    {config.inference_cycles} (the model card says how)\n"
        f"Log and curves:   {config.output_dir}/log.jsonl, {config.output_dir}/curves.png\n"
        f"Try next:         the same with --mode {other} and another --output-dir, to compare;\n"
        "                  --num-cycles 3; your own images with --data-dir; --help for the rest",
        soft_wrap=True,
    )


if __name__ == "__main__":
    run_cli(main)
