"""`cycledistill-pose convert`: from released weights to a folder that predicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cycledistill_pose import (
    COCO,
    CROWDPOSE,
    PosePredictor,
    TokenPruning,
    create_model,
    load_plain,
)
from cycledistill_pose.checkpoints import to_reference_state_dict
from cycledistill_pose.cli import main


def run(*arguments: object) -> None:
    main(["convert", *map(str, arguments)])


def test_converted_weights_predict_as_the_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("tokenpose_nano").eval()
    released = {"state_dict": to_reference_state_dict(model), "meta": {"epoch": 300}}
    torch.save(released, tmp_path / "released.pth")
    run(tmp_path / "released.pth", "--model", "tokenpose_nano", "--out", tmp_path / "plain")
    loaded = load_plain(tmp_path / "plain")
    assert loaded.skeleton == COCO and loaded.codec["method"] == "dark"
    image = torch.rand(1, 3, 128, 96)
    assert torch.equal(loaded.model(image), model(image))
    pixels = np.zeros((128, 96, 3), np.uint8)
    assert PosePredictor.from_pretrained(tmp_path / "plain")(pixels).keypoints.shape == (1, 17, 2)


@pytest.mark.parametrize("name", ["tokenpose_s_v1", "tokenreg_nano"])
def test_other_keypoints_and_pruning(name: str, tmp_path: Path) -> None:
    pruning = {"pruning": TokenPruning()} if name == "tokenpose_s_v1" else {}
    model = create_model(name, CROWDPOSE.num_keypoints, **pruning).eval()
    torch.save(to_reference_state_dict(model), tmp_path / "r.pth")
    flags = ["--skeleton", "crowdpose", *(["--pruning"] if pruning else [])]
    run(tmp_path / "r.pth", "--model", name, "--out", tmp_path / "plain", *flags)
    loaded = load_plain(tmp_path / "plain")
    assert loaded.skeleton == CROWDPOSE
    image = torch.rand(1, 3, *reversed(model.input_size))
    torch.testing.assert_close(loaded.model(image), model(image), rtol=0, atol=0)


def test_errors_leave_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(to_reference_state_dict(create_model("tokenpose_nano")), tmp_path / "r.pth")
    (tmp_path / "bad.pth").write_text("x")
    out = tmp_path / "plain"
    for arguments, text in (
        (("none.pth", "--model", "tokenpose_nano"), "none.pth"),
        ((tmp_path / "bad.pth", "--model", "tokenpose_nano"), "bad.pth"),
        ((tmp_path / "r.pth", "--model", "tokenpose_x"), "got 'tokenpose_x'"),
        ((tmp_path / "r.pth", "--model", "tokenreg_nano"), "does not fit this TokenReg"),
        (
            (tmp_path / "r.pth", "--model", "tokenpose_nano", "--skeleton", "crowdpose"),
            "it has 17 keypoints, the model has 14",
        ),
    ):
        with pytest.raises(SystemExit) as stopped:
            run(*arguments, "--out", out)
        assert stopped.value.code == 1 and text in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pth", "r.pth"]
