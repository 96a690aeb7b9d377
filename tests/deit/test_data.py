"""Image folders and the digits: what is read, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cycledistill_deit import PRESETS, MixupTargets, load_data


def make_folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 2) -> Path:
    for split in ("train", "val"):
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.full((40, 30, 3), 60 * number + 10 * index, dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


def config_for(root: Path | None, **changes: object):
    options = {"mode": "plain", "limit_train": None, **changes}
    return replace(PRESETS["cifar10-cpu"], data_dir=root, **options)


def test_folder_gives_images_and_labels(tmp_path):
    data = load_data(config_for(make_folder(tmp_path / "d")))
    assert data.class_names == ("cat", "dog")
    image, label = data.val[3]
    assert image.shape == (3, 32, 32) and image.dtype == torch.float32 and label == 1
    expected = (70 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(image.mean((1, 2)), expected, atol=1e-4, rtol=0)
    assert len(data.train) == 4 and data.train[0][0].shape == (3, 32, 32)


def test_digits_are_split_without_overlap():
    data = load_data(PRESETS["digits"])
    assert (len(data.train), len(data.val)) == (1297, 500)
    val = {data.val[i][0].numpy().tobytes() for i in range(500)}
    plain = load_data(replace(PRESETS["digits"], crop_padding=0))
    train = {plain.train[i][0].numpy().tobytes() for i in range(200)}
    assert not val & train
    assert sorted({data.val[i][1] for i in range(500)}) == list(range(10))


def test_limit_train_takes_an_even_share(tmp_path):
    root = make_folder(tmp_path / "d", count=4)
    data = load_data(config_for(root, limit_train=4))
    assert [data.train[i][1] for i in range(4)] == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="limit_train=9 is not within 1 and 8 images"):
        load_data(config_for(root, limit_train=9))


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no folder; expected train/CLASS"):
        load_data(config_for(tmp_path / "nowhere"))
    (tmp_path / "half" / "train").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="val is no folder"):
        load_data(config_for(tmp_path / "half"))


def test_empty_class_is_named(tmp_path):
    root = make_folder(tmp_path / "d")
    (root / "train" / "bird").mkdir()
    with pytest.raises(ValueError, match="no valid file for the classes bird"):
        load_data(config_for(root))


def test_differing_classes_are_named(tmp_path):
    root = make_folder(tmp_path / "d")
    make = root / "train" / "bird"
    make.mkdir()
    Image.new("RGB", (8, 8)).save(make / "0.png")
    with pytest.raises(ValueError, match=r"3 for training and 2 .* only one of them has bird"):
        load_data(config_for(root))


@pytest.mark.parametrize("content", [b"not an image", b""])
def test_broken_image_is_named(tmp_path, content):
    root = make_folder(tmp_path / "d")
    (root / "val" / "cat" / "0.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"val/cat/0\.png cannot be read as an image"):
        load_data(config_for(root)).val[0]


def test_truncated_image_is_named(tmp_path):
    root = make_folder(tmp_path / "d")
    path = root / "val" / "cat" / "0.png"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"0\.png cannot be read as an image"):
        load_data(config_for(root)).val[0]


def test_mixed_targets_are_probabilities():
    config = replace(PRESETS["digits"], mixup=0.8, cutmix=1.0)
    np.random.seed(0)
    targets = MixupTargets(config, num_classes=10)
    images, probabilities = targets(torch.rand(8, 1, 8, 8), torch.arange(8))
    assert images.shape == (8, 1, 8, 8)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(8))
    odd, probabilities = targets(torch.rand(3, 1, 8, 8), torch.arange(3))
    assert odd.shape[0] == 3 and probabilities.argmax(1).tolist() == [0, 1, 2]


def test_cifar10_is_read(shared_data):
    data = load_data(config_for(shared_data("cifar10")))
    assert len(data.train) == 50_000 and len(data.val) == 5_000 and len(data.class_names) == 10
    assert data.train[49_999][0].shape == (3, 32, 32)
