"""Image folders and the digits: what is read, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cycledistill_deit import PRESETS, MixupTargets, load_data
from cycledistill_deit._images import open_image


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
    assert len(load_data(replace(PRESETS["digits"], num_classes=10)).class_names) == 10
    with pytest.raises(ValueError, match="--num-classes 5: there are 10 digits"):
        load_data(replace(PRESETS["digits"], num_classes=5))


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


def test_class_folders_have_no_other_splits(tmp_path):
    root = make_folder(tmp_path / "d")
    with pytest.raises(ValueError, match="val_split=test is for data with a prefix, such as hfds/"):
        load_data(config_for(root, val_split="test"))


def test_empty_class_is_named(tmp_path):
    root = make_folder(tmp_path / "d")
    (root / "train" / "bird").mkdir()
    with pytest.raises(ValueError, match="train/bird has no images"):
        load_data(config_for(root))


def test_a_single_class_is_refused(tmp_path):
    root = make_folder(tmp_path / "d", ("cat",))
    with pytest.raises(ValueError, match=r"expected two or more classes, got \('cat',\)"):
        load_data(config_for(root))


def test_hidden_folders_and_files_are_no_classes_and_no_images(tmp_path):
    root = make_folder(tmp_path / "d")
    (root / "train" / ".empty").mkdir()
    for split in ("train", "val"):
        for place in (".ipynb_checkpoints", "cat/.ipynb_checkpoints"):
            (root / split / place).mkdir()
            Image.new("RGB", (8, 8)).save(root / split / place / "0-checkpoint.png")
        (root / split / "dog" / "._0.png").write_bytes(b"of macOS")
    data = load_data(config_for(root))
    assert data.class_names == ("cat", "dog") and len(data.train) == len(data.val) == 4
    assert [data.val[i][1] for i in range(4)] == [0, 0, 1, 1]


def test_links_to_folders_around_them_are_not_followed(tmp_path):
    root = make_folder(tmp_path / "d")
    (root / "more").mkdir()
    Image.new("RGB", (8, 8)).save(root / "more" / "0.png")
    links = {"cat/again": ".", "dog/all": "..", "dog/itself": "itself", "train": "."}
    for link, target in {**links, "dog/more": "../../more"}.items():
        (root / "train" / link).symlink_to(target)
    with pytest.warns(UserWarning, match="left out: 1 without ending"):
        data = load_data(config_for(root))
    assert data.class_names == ("cat", "dog")
    assert [data.train[i][1] for i in range(len(data.train))] == [0, 0, 1, 1, 1]


def test_files_that_are_no_images_are_counted(tmp_path):
    root = make_folder(tmp_path / "d")
    Image.new("RGB", (8, 8)).save(root / "train" / "cat" / "2.gif")
    for name in ("cat/3.heic", "dog/3.HEIC", "cat/notes"):
        (root / "train" / name).write_bytes(b"x")
    (root / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"train: files that .* left out: 2 \.heic, 1 without end"):
        data = load_data(config_for(root))
    assert len(data.train) == 5


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_greys_of_16_bits_keep_their_upper_8(tmp_path, mode):
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    for suffix in ("png", "tif"):
        Image.fromarray(values).save(tmp_path / f"grey.{suffix}")
        found = np.asarray(open_image(tmp_path / f"grey.{suffix}", mode))
        assert np.array_equal(found.reshape(64, 64, -1)[..., 0], values >> 8)
    Image.new("F", (4, 4), 0.5).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif cannot be read.*got floating-point numbers"):
        open_image(tmp_path / "float.tif", mode)


def test_an_image_above_pillows_limit_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(ValueError, match=r"0\.png cannot be read as an image: .*1200 pixels"):
        load_data(config_for(make_folder(tmp_path / "d"))).val[0]


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


@pytest.mark.parametrize("count", [1, 2, 3, 125])
def test_an_odd_batch_is_mixed_but_for_its_last_image(count):
    """As the batches of the preset cifar10-cpu are: 125 images."""
    config = replace(PRESETS["digits"], mixup=0.8, cutmix=1.0)
    pairs = count // 2 * 2
    images, labels = torch.rand(count, 1, 8, 8), torch.arange(count) % 10
    targets = MixupTargets(config, num_classes=10)
    np.random.seed(0)
    expected, expected_targets = images.clone(), torch.full((count, 10), 0.01)
    expected_targets[range(count), labels] = 0.91
    if pairs:
        mixed = targets.mixup(expected[:pairs].clone(), labels[:pairs])
        expected[:pairs], expected_targets[:pairs] = mixed
        assert not torch.equal(expected[:pairs], images[:pairs])
    np.random.seed(0)
    found, probabilities = targets(images, labels)
    assert torch.equal(found, expected)
    torch.testing.assert_close(probabilities, expected_targets)


def test_cifar10_is_read(shared_data):
    data = load_data(config_for(shared_data("cifar10")))
    assert len(data.train) == 50_000 and len(data.val) == 5_000 and len(data.class_names) == 10
    assert data.train[49_999][0].shape == (3, 32, 32)
