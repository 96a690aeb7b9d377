"""The example scripts, run as a user runs them."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits

from tests.examples import EXAMPLES, run_example, run_program

deit_imagenet = partial(run_example, "deit_imagenet.py")

# Learns in seconds, most of which go into single images: few of them, in small batches.
SMALL = (
    *("--preset", "digits", "--limit-train", 800, "--batch-size", 16, "--crop-padding", 0),
    *("--lr", 5e-3, "--warmup-epochs", 1),
)


def evaluations(folder: Path) -> list[dict[str, float]]:
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [record for record in records if "accuracy/1" in record]


@pytest.mark.slow
def test_digits_are_learnt_cycled_exported_and_resumed(tmp_path):
    out = tmp_path / "run"
    arguments = (*SMALL, "--depth", 1, "--epochs", 10, "--evaluate-every", 10, "--output-dir", out)
    first = deit_imagenet(*arguments)
    assert first.returncode == 0, first.stderr
    assert "images      scikit-learn's digits" in first.stdout
    assert "reloaded with bare timm" in first.stdout
    last = evaluations(out)[-1]
    assert last["accuracy/1"] > 50 and last["accuracy/2"] > 50
    assert (out / "plain" / "model.safetensors").exists() and (out / "curves.png").exists()
    again = deit_imagenet(*arguments)  # nothing is left to do but to report
    assert again.returncode == 0, again.stderr
    assert evaluations(out)[-1]["accuracy/1"] == last["accuracy/1"]


@pytest.mark.slow
def test_cycle_mode_on_real_images(tmp_path, shared_data):
    source, images = shared_data("cifar10"), tmp_path / "images"
    for folder in (source / "val").iterdir():  # fewer than 500 of each class
        (images / "val" / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[:40]:
            (images / "val" / folder.name / path.name).symlink_to(path)
    (images / "train").symlink_to(source / "train")
    done = deit_imagenet(
        "--preset", "cifar10-cpu", "--data-dir", images, "--mode", "cycle", "--num-cycles", 3,
        "--depth", 2, "--num-heads", 2, "--batch-size", 32,
        "--limit-train", 1024, "--epochs", 2, "--warmup-epochs", 1, "--evaluate-every", 1,
        "--num-workers", 0, "--output-dir", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    last = evaluations(tmp_path / "run")[-1]
    assert {"accuracy/1", "accuracy/2", "accuracy/3"} <= last.keys()
    assert last["accuracy/3"] > 15


@pytest.mark.slow
def test_a_grown_network_is_folded_into_a_plain_one(tmp_path):
    short = (*SMALL, "--depth", 2, "--embed-dim", 24, "--epochs", 3)
    own = ("--mean", 0.1, "--std", 0.2)  # the last table prepares each network's images its way
    for mode, name, options in (("plain", "p", own), ("grow", "g", ())):
        done = deit_imagenet(*short, "--mode", mode, *options, "--output-dir", tmp_path / name)
        assert done.returncode == 0, done.stderr
        other = "grow-fold" if mode == "plain" else "plain"
        assert f"the same with --mode {other} and" in done.stdout
    fold = (*short, "--mode", "fold", "--teacher", tmp_path / "g", "--beside", tmp_path / "p")
    fold = (*fold, "--truth-weight", "0.1")  # little truth, so that the teacher's part shows
    first = deit_imagenet(*fold, "--output-dir", tmp_path / "f")
    assert first.returncode == 0, first.stderr
    rows = [line for line in first.stdout.splitlines() if " M │" in line and "%" in line]
    plain, grown, folded = ([cell.strip() for cell in row.split("│")[1:-1]] for row in rows)
    assert [row[1] for row in (plain, grown, folded)] == ["1", "2", "1"]
    assert plain[2] == folded[2] != grown[2]
    for row, name, cycles in ((plain, "p", 1), (grown, "g", 2), (folded, "f", 1)):
        score = evaluations(tmp_path / name)[-1][f"accuracy/{cycles}"]
        assert row[3] == f"{score:.2f} %"
    # From the teacher's weights the first epoch is ahead of the plain network's.
    firsts = [evaluations(tmp_path / name)[0]["accuracy/1"] for name in ("f", "p")]
    assert firsts[0] > firsts[1] + 5
    again = deit_imagenet(*fold, "--output-dir", tmp_path / "f")  # only reports
    assert again.returncode == 0 and rows[2] in again.stdout
    other = deit_imagenet(*fold, "--embed-dim", 36, "--output-dir", tmp_path / "other")
    assert other.returncode == 1 and "cannot start from the weights of" in other.stderr


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_broken_training_image_ends_in_one_clear_line(tmp_path, workers):
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(4):
                Image.new("RGB", (32, 32)).save(tmp_path / split / name / f"{index}.png")
    (tmp_path / "train" / "a" / "2.png").write_bytes(b"no image")
    run = run_program if workers else run_example  # a worker must not outlive the program
    done = run(
        "deit_imagenet.py", "--preset", "cifar10-cpu", "--data-dir", tmp_path, "--mode", "plain",
        "--limit-train", "None", "--epochs", 2, "--warmup-epochs", 1, "--batch-size", 8,
        "--num-workers", workers, "--output-dir", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "Traceback" not in done.stderr
    assert "a/2.png cannot be read as an image" in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--data-dir", "nowhere"], "nowhere is no folder"),
        ([], "--data-dir is missing"),
        (["--preset", "digits", "--num-cycles", "0"], "num_cycles must be at least 1, got 0"),
    ],
)
def test_bad_input_ends_in_one_clear_line(tmp_path, arguments, text):
    done = deit_imagenet(*arguments, "--output-dir", tmp_path / "run")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and text in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "run").exists()


def test_help_of_wrap_timm_vit_does_not_train():
    done = run_example("wrap_timm_vit.py", "--help")
    assert done.returncode == 0 and "run it with one" in done.stdout and "epoch" not in done.stdout


@pytest.mark.slow
def test_wrap_timm_vit_learns():
    done = run_example("wrap_timm_vit.py")
    assert done.returncode == 0, done.stderr
    last = next(line for line in done.stdout.splitlines() if line.startswith("epoch 15"))
    assert float(last.split("top-1 ")[1].split(" %")[0]) > 60
    assert "to the last bit" in done.stdout
    assert len((EXAMPLES / "wrap_timm_vit.py").read_text().splitlines()) < 60


@pytest.mark.slow
def test_pretrained_vit_is_finetuned_and_its_result_finetuned_again(tmp_path):
    first = run_example("finetune_pretrained_vit.py", "--epochs", 1, "--output", tmp_path / "first")
    assert first.returncode == 0, first.stderr
    assert "2 cycle(s) through blocks.2:4" in first.stdout
    digits = load_digits()
    for index, (image, digit) in enumerate(zip(digits.images[:80], digits.target, strict=False)):
        folder = tmp_path / "digits" / ("train" if index < 50 else "val") / str(digit)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype("uint8")).save(folder / f"{index}.png")
    again = run_example(
        "finetune_pretrained_vit.py", "--images", tmp_path / "digits",
        "--model", f"local-dir:{tmp_path / 'first'}", "--blocks", "blocks.1:3",
        "--num-cycles", 1, "--epochs", 1, "--lr", 0, "--output", tmp_path / "again",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    named = json.loads((tmp_path / "again" / "config.json").read_text())
    assert named["label_names"] == list("0123456789")
    assert "% in 1 cycle(s)" in again.stdout and "in 2 cycle(s)" not in again.stdout
    ours, theirs = (
        timm.create_model(f"local-dir:{tmp_path / name}", pretrained=True).state_dict()
        for name in ("first", "again")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if "head." not in name)
    assert len((EXAMPLES / "finetune_pretrained_vit.py").read_text().splitlines()) < 80
    shutil.rmtree(tmp_path / "digits" / "val" / "0")  # the others' labels would move up by one
    wrong = run_example(
        "finetune_pretrained_vit.py", "--images", tmp_path / "digits",
        "--model", f"local-dir:{tmp_path / 'first'}",
    )  # fmt: skip
    assert wrong.returncode == 2 and "--images" in wrong.stderr and "other classes" in wrong.stderr
    shutil.rmtree(tmp_path / "digits" / "val")
    wrong = run_example(
        "finetune_pretrained_vit.py", "--images", tmp_path / "digits",
        "--model", f"local-dir:{tmp_path / 'first'}",
    )  # fmt: skip
    assert wrong.returncode == 2 and "val is no folder; expected train/CLASS/*.jpg" in wrong.stderr
