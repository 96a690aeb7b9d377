"""Looking inside pose networks, pruned or not, and the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cycledistill import CycleWrapper
from cycledistill.inside import plot_attention_over_image, token_changes
from cycledistill_pose import COCO, TokenPruning, create_model, save_plain
from cycledistill_pose.cli import main
from cycledistill_pose.inside import record_pose_attention
from cycledistill_pose.models._pruning import PruningPass

SMALL = {"input_size": (48, 64), "depth": 3, "dim": 32}
IMAGES = torch.randn(2, 3, 64, 48)


def cycled(name: str = "tokenpose_nano", **options: object) -> CycleWrapper:
    torch.manual_seed(0)
    extra = {"heatmap_size": (12, 16)} if name == "tokenpose_nano" else {}
    return CycleWrapper(create_model(name, **SMALL, **extra, **options), blocks="blocks").eval()


@pytest.mark.parametrize("name", ["tokenpose_nano", "tokenreg_nano"])
def test_without_pruning_every_token_stands_where_it_stood(name: str) -> None:
    maps, positions, grid = record_pose_attention(cycled(name), IMAGES, 2)
    assert grid == (4, 4) and len(maps) == len(positions) == 6
    assert all(torch.equal(places, torch.arange(33).expand(2, -1)) for places in positions)
    assert all(found.weights.shape == (2, 4, 33, 33) for found in maps)


def test_a_network_of_a_single_block() -> None:
    model = create_model("tokenreg_nano", input_size=(48, 64), depth=1, dim=32)
    maps, _, _ = record_pose_attention(CycleWrapper(model, blocks="blocks").eval(), IMAGES, 2)
    assert [(found.cycle, found.layer) for found in maps] == [(1, 1), (2, 1)]


def test_pruned_tokens_are_those_that_the_network_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The places are followed through the network's own choice, written down token by token."""
    model = cycled(pruning=TokenPruning(blocks=(0, 1), keep_ratio=0.5))
    chosen = []
    prune = PruningPass.prune

    def noting(self: PruningPass, block: int, tokens: torch.Tensor, *rest: torch.Tensor):
        after = prune(self, block, tokens, *rest)
        # Which token of before is each token of after?
        chosen.append((after[:, :, None] == tokens[:, None]).all(-1).int().argmax(-1))
        return after

    monkeypatch.setattr(PruningPass, "prune", noting)
    maps, positions, grid = record_pose_attention(model, IMAGES, 2)
    assert [found.weights.shape[-1] for found in maps] == [33, 25, 21, 21, 21, 21]
    expected = torch.arange(33).expand(2, -1)
    for kept, places in zip(chosen, positions, strict=True):
        assert torch.equal(places, expected)
        expected = expected.gather(1, kept)
    figure = plot_attention_over_image(
        maps, np.zeros((64, 48, 3), np.uint8), 0, grid, positions=positions
    )
    overlays = [axes.images[1].get_array() for axes in figure.axes if len(axes.images) > 1]
    black = [(np.asarray(overlay) == [0, 0, 0, 0.85]).all(-1) for overlay in overlays]
    dropped = [int(cells.sum()) for cells in black]
    assert dropped == [0, 8, 12, 12, 12, 12]
    with pytest.raises(ValueError, match="positions= must say which are left"):
        plot_attention_over_image(maps, np.zeros((64, 48, 3), np.uint8), 0, grid)
    changes = token_changes(model, IMAGES, num_cycles=3)
    shapes = {name: tuple(part.shape) for name, part in changes.items()}
    assert shapes == {"keypoint": (2, 2, 17), "visual": (2, 2, 4)}


def test_other_models_are_refused() -> None:
    other = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = torch.nn.TransformerEncoder(other, 2, enable_nested_tensor=False)
    with pytest.raises(TypeError, match="found a TransformerEncoder, expected a TokenPose"):
        record_pose_attention(CycleWrapper(model).eval(), IMAGES, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("plain")
    options = {**SMALL, "heatmap_size": (12, 16), "pruning": TokenPruning((0,), 0.5)}
    for name in ("a", "b"):
        model = create_model("tokenpose_nano", **options)
        save_plain(model, room / name, "tokenpose_nano", options, COCO, {"sigma": 1.0})
    Image.fromarray(np.full((80, 60, 3), 99, np.uint8)).save(room / "person.png")
    return room


def command(folder: Path, out: Path, *rest: str) -> list[str]:
    return [
        *("inside", "--checkpoint", str(folder / "a"), "--image", str(folder / "person.png")),
        *("--out", str(out), *rest),
    ]


@pytest.mark.slow
def test_the_command_writes_a_picture_of_each_kind(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main(command(folder, out, "--keypoint", "left_knee", "--compare", str(folder / "b")))
    names = ["attention_left_knee", "attention_keypoints", "weights", "token_changes"]
    expected = [out / f"{name}.png" for name in (*names, "predictions")]
    assert sorted(out.iterdir()) == sorted(expected)
    assert capsys.readouterr().out.split() == [str(path) for path in expected]
    for path in expected:
        assert np.asarray(Image.open(path).convert("L")).std() > 1  # something is drawn


@pytest.mark.slow
def test_the_first_keypoint_is_drawn_where_there_is_no_nose(folder: Path, tmp_path: Path) -> None:
    names = tuple(f"point_{number}" for number in range(17))
    own = replace(COCO, keypoint_names=names)
    options = {**SMALL, "heatmap_size": (12, 16)}
    model = create_model("tokenpose_nano", **options)
    save_plain(model, tmp_path / "a", "tokenpose_nano", options, own, {"sigma": 1.0})
    picture = ["--image", str(folder / "person.png")]
    main(["inside", "--checkpoint", str(tmp_path / "a"), *picture, "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "attention_point_0.png").is_file()


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        (("--keypoint", "tail"), "keypoint: expected 'nose', 'left_eye', "),
        (("--num-cycles", "0"), "num_cycles: expected a whole number of 1 or more"),
        (
            ("--compare", "nowhere"),
            "nowhere is not a folder here, and the Hugging Face Hub gave no",
        ),
        (("--layer", "9"), "layer: found 9, expected 1 to 3"),
        (("--image", "nowhere.png"), "there is no image nowhere.png"),
    ],
)
def test_errors_leave_nothing(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rest: tuple[str, ...],
    text: str,
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(command(folder, tmp_path / "out", *rest))
    assert stopped.value.code == 1 and text in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
