"""Hugging Face data sets, tar shards and what else timm reads, as the data of a run."""

from __future__ import annotations

import importlib.util
import io
import pickle
import tarfile
import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from cycledistill.training._loading import KeyedDataset
from cycledistill.training._sampler import GlobalOrder
from cycledistill.training.processes import evaluation_loader
from cycledistill_deit import PRESETS, load_data
from tests.deit.image_sets import CLASSES, add, hugging_face_folder, picture, shards

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
STILL = {"flip": 0.0, "crop_padding": 0}


def config_for(data_dir, **changes):
    classes = None if "hfds" in str(data_dir) else 3
    options = {"mode": "plain", "limit_train": None, "num_classes": classes, **STILL, **changes}
    return replace(PRESETS["cifar10-cpu"], data_dir=str(data_dir), **options)


def shade(image: torch.Tensor) -> int:
    """The shade of grey of a prepared image `[3, S, S]`."""
    return round(float(image[0].mean() * STD[0] + MEAN[0]) * 255)


def images_of(batches) -> list[int]:
    """Which images stand in some batches, in ascending order."""
    return sorted(grey // 5 for shades, _ in batches for grey in shades)


@pytest.fixture
def offline(tmp_path):
    pytest.importorskip("datasets")
    return {"data_root": tmp_path / "cache"}


@pytest.fixture
def streamed():
    pytest.importorskip("webdataset")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is read as a stream")
        yield


def loaded(data, config, first_step=0, steps=None, rank=0, world_size=1):
    """(shades, labels) of each batch of a process, as the trainer loads them."""
    dataset = KeyedDataset(data, config.seed)
    order = GlobalOrder(config, len(dataset))
    loader = DataLoader(
        dataset,
        batch_sampler=order.batches(first_step, rank, world_size),
        num_workers=config.num_workers,
        generator=torch.Generator(),
    )
    batches = []
    for images, labels in loader:
        batches.append(([shade(image) for image in images], labels.tolist()))
        if len(batches) == steps:
            break
    return batches


def test_hugging_face_data_have_indices_labels_and_names(tmp_path, offline):
    folder = hugging_face_folder(tmp_path / "birds")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_data(config_for(f"hfds/{folder}", **offline))
    assert data.class_names == CLASSES
    assert (len(data.train), len(data.val)) == (12, 6)
    for dataset in (data.train, data.val):
        found = {shade(image): label for image, label in (dataset[i] for i in range(len(dataset)))}
        assert found == {5 * index: index % 3 for index in range(len(dataset))}
    few = load_data(config_for(f"hfds/{folder}", limit_train=4, **offline))
    assert len(few.train) == 4
    grey = load_data(config_for(f"HFDS/{folder}", in_chans=1, **offline))
    assert grey.val[0][0].shape == (1, 32, 32)
    held_out = load_data(config_for(f"hfds/{folder}", val_split="train", **offline))
    assert len(held_out.val) == 12


def test_order_of_hugging_face_data_is_that_of_the_seed(tmp_path, offline):
    """The same batches for any number of workers, and from the middle."""
    data_dir = f"hfds/{hugging_face_folder(tmp_path / 'birds')}"
    config = config_for(data_dir, epochs=3, warmup_epochs=0, batch_size=4, num_workers=0, **offline)
    data = load_data(config).train
    whole = loaded(data, config)
    assert [images_of(whole[first : first + 3]) for first in (0, 3, 6)] == [[*range(12)]] * 3
    assert loaded(data, config, first_step=4) == whole[4:]
    workers = replace(config, num_workers=2)
    assert loaded(load_data(workers).train, workers, first_step=2) == whole[2:]


def test_broken_image_of_a_hugging_face_data_set_is_named(tmp_path, offline):
    folder = hugging_face_folder(tmp_path / "birds")
    data = load_data(config_for(f"hfds/{folder}", **offline))
    for path in folder.rglob("validation/cat/*.png"):
        path.write_bytes(b"no image")
    broken = next(i for i in range(6) if data.val.source.reader.dataset[i]["label"] == 0)
    text = rf"{broken} of hfds/.*validation.* cannot be read as an image"
    with pytest.raises(ValueError, match=text):
        data.val[broken]


def test_broken_image_of_a_saved_data_set_is_named(tmp_path, offline):
    datasets = pytest.importorskip("datasets")
    picture(0).save(tmp_path / "0.png")
    contents = (tmp_path / "0.png").read_bytes(), b"no image"
    images = [{"bytes": content, "path": None} for content in contents]
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=[*CLASSES])}
    rows = datasets.Dataset.from_dict(
        {"image": images, "label": [0, 1]}, datasets.Features(features)
    )
    datasets.DatasetDict(train=rows, validation=rows).save_to_disk(tmp_path / "saved")
    data = load_data(config_for(f"hfds/{tmp_path / 'saved'}", **offline))
    assert data.val[0][1] == 0
    with pytest.raises(ValueError, match=r"1 of .*saved \(validation\) cannot be read: "):
        data.val[1]


def test_an_epoch_of_shards_has_every_image(tmp_path, streamed):
    data_dir = f"wds/{shards(tmp_path / 'shards')}"
    config = config_for(data_dir, epochs=3, warmup_epochs=0, batch_size=6, num_workers=0)
    data = load_data(config)
    assert len(data.train) == 24 and data.class_names == ("0", "1", "2")
    batches = loaded(data.train, config)
    assert len(batches) == 12
    epochs = [batches[first : first + 4] for first in (0, 4, 8)]
    assert [images_of(epoch) for epoch in epochs] == [[*range(24)]] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    for shades, labels in batches:
        assert labels == [grey // 5 % 3 for grey in shades]
    assert loaded(load_data(config).train, config) == batches
    other = replace(config, seed=1)
    assert loaded(load_data(other).train, other) != batches


def test_an_epoch_that_is_taken_up_again_begins_its_shards_again(tmp_path, streamed):
    data_dir = f"wds/{shards(tmp_path / 'shards')}"
    config = config_for(data_dir, epochs=2, warmup_epochs=0, batch_size=6, num_workers=1)
    whole = loaded(load_data(config).train, config)
    again = loaded(load_data(config).train, config, first_step=4)
    assert again == whole[4:]  # an epoch's begin: as if nothing had happened
    middle = loaded(load_data(config).train, config, first_step=5)
    assert len(middle) == 3
    assert [shades for shades, _ in middle] == [shades for shades, _ in whole[4:7]]


def test_processes_and_workers_read_shards_of_their_own(tmp_path, streamed, monkeypatch):
    data_dir = f"wds/{shards(tmp_path / 'shards')}"
    config = config_for(data_dir, epochs=2, warmup_epochs=0, batch_size=8, num_workers=2)
    seen = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        own = loaded(load_data(config).train, config, rank=rank, world_size=2)
        assert len(own) == 6
        seen.append(Counter(images_of(own[:3])))
    assert not seen[0].keys() & seen[1].keys()
    # An epoch of 3 batches: a worker reads 8 images of its shard of 6, the other 4.
    assert {number for counts in seen for number in counts.values()} == {1, 2}


def test_copies_of_a_streamed_image_follow_each_other(tmp_path, streamed):
    data_dir = f"wds/{shards(tmp_path / 'shards')}"
    config = config_for(
        data_dir, epochs=2, warmup_epochs=0, batch_size=12, num_workers=0, repeated_augmentation=3
    )
    batches = loaded(load_data(config).train, config)
    for shades, _ in batches:
        assert shades[::3] == shades[1::3] == shades[2::3]
        assert len(set(shades)) == 4
    assert len({*batches[0][0], *batches[1][0]}) == 8  # not begun anew by a copy


@pytest.mark.parametrize("workers", [0, 2])
def test_every_validation_image_once(tmp_path, streamed, monkeypatch, workers):
    data_dir = f"wds/{shards(tmp_path / 'shards')}"
    found = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        val = load_data(config_for(data_dir)).val
        assert len(val) == 12
        part = [
            (shade(image), int(label))
            for images, labels in evaluation_loader(val, 5, workers)
            for image, label in zip(images, labels, strict=True)
        ]
        assert 4 <= len(part) <= 8
        found += part
    assert sorted(found) == [(5 * index, index % 3) for index in range(12)]


def test_a_streamed_hugging_face_data_set(tmp_path, offline, streamed):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "parquet"
    folder.mkdir()
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    splits = datasets.DatasetDict()
    for split, count in (("train", 12), ("validation", 6)):
        pictures = [picture(5 * index) for index in range(count)]
        rows = {"img": pictures, "label": [index % 3 for index in range(count)]}
        splits[split] = made = datasets.Dataset.from_dict(rows, features=features)
        for part in range(2):
            made.shard(2, part, contiguous=True).to_parquet(
                folder / f"{split}-{part:05d}-of-00002.parquet"
            )
    options = {"input_key": "img", "epochs": 2, "warmup_epochs": 0}
    config = config_for(f"hfids/{folder}", batch_size=6, num_workers=2, **options, **offline)
    with pytest.raises(ValueError, match=r"hfids/.*--train-split 'train\|50000'"):
        load_data(config)  # nothing says how many there are
    config = replace(config, train_split="train|12", val_split="validation|6")
    batches = loaded(load_data(config).train, config)
    assert [images_of(batches[:2]), images_of(batches[2:])] == [[*range(12)]] * 2
    assert batches[:2] != batches[2:] and loaded(load_data(config).train, config) == batches
    assert [labels for _, labels in batches] == [
        [grey // 5 % 3 for grey in shades] for shades, _ in batches
    ]
    assert sorted(int(label) for _, label in load_data(config).val) == [0, 0, 1, 1, 2, 2]
    splits.save_to_disk(tmp_path / "saved")
    for whole in (folder, tmp_path / "saved"):
        named = {"data_dir": f"hfds/{whole}", "train_split": None, "val_split": None}
        indexed = load_data(replace(config, **named))
        assert shade(indexed.train[7][0]) == 35 and indexed.class_names == CLASSES
        assert [indexed.train[place][1] for place in range(4)] == [0, 1, 2, 0]
    with pytest.raises(ValueError, match=r"--val-split test: .*its splits train, validation"):
        load_data(replace(config, **{**named, "val_split": "test"}))


def test_what_is_not_promised_is_said(tmp_path):
    pytest.importorskip("webdataset")
    config = config_for(f"wds/{shards(tmp_path / 'shards')}", num_workers=1)
    with pytest.warns(UserWarning, match=r"read as a stream, .* not promised: .* the start again"):
        data = load_data(config)
    pickle.loads(pickle.dumps(data.train.transform))
    with pytest.raises(ValueError, match=r"limit_train=4: expected data with indices, got .*wds/"):
        load_data(replace(config, limit_train=4))


def test_shards_by_their_names(tmp_path, streamed):
    root = shards(tmp_path / "shards", info=False)
    config = config_for(f"wds/{root}", val_split="validation-{0..1}.tar|12")
    with pytest.raises(ValueError, match=r"--train-split train: .*_info\.json beside the shards"):
        load_data(config)
    data = load_data(replace(config, train_split="train-{1..2}.tar|12"))
    assert (len(data.train), len(data.val)) == (12, 12)
    with pytest.raises(ValueError, match=r"--val-split: expected the number of images"):
        load_data(replace(config, train_split="train-1.tar|6", val_split="validation-0.tar"))
    with pytest.raises(FileNotFoundError, match=r"--train-split: there is no shard .*train-4\.tar"):
        load_data(replace(config, train_split="train-{0..4}.tar|30"))


def test_too_few_shards_for_the_workers(tmp_path, streamed):
    config = config_for(
        f"wds/{shards(tmp_path / 'shards', train=1)}",
        **{"epochs": 1, "warmup_epochs": 0, "batch_size": 2, "num_workers": 2},
    )
    with pytest.raises(ValueError, match=r"no image for process 0 of 1, worker 1 of 2"):
        loaded(load_data(config).train, config)


def test_classes_are_named_or_counted(tmp_path, offline, streamed):
    root = shards(tmp_path / "shards")
    with pytest.raises(ValueError, match=r"wds/.* does not name its classes: .*--num-classes"):
        load_data(config_for(f"wds/{root}", num_classes=None))
    data = load_data(config_for(f"wds/{root}", num_classes=2))
    with pytest.raises(ValueError, match=r"found the label 2, expected 0 to 1 \(2 classes\)"):
        list(data.val)
    folder = hugging_face_folder(tmp_path / "birds")
    with pytest.raises(ValueError, match=r"--num-classes 7: hfds/.* names 3 classes"):
        load_data(config_for(f"hfds/{folder}", num_classes=7, **offline))


def test_torchvision_data_sets(tmp_path):
    folder = hugging_face_folder(tmp_path / "birds")
    config = config_for("torch/image_folder", num_classes=None, data_root=folder)
    data = load_data(config)
    assert data.class_names == CLASSES and (len(data.train), len(data.val)) == (12, 6)
    assert [(shade(image), label) for image, label in (data.val[i] for i in range(6))] == [
        (0, 0), (15, 0), (5, 1), (20, 1), (10, 2), (25, 2)
    ]  # fmt: skip
    with pytest.raises(ValueError, match="torch/image_folder: expected --data-root"):
        load_data(replace(config, data_root=None))
    with pytest.raises(ValueError, match=r"torch/cifar10, --train-split train: .*not found"):
        load_data(replace(config, data_dir="torch/cifar10"))
    with pytest.raises(ValueError, match=r"torch/none, .*Unknown torchvision dataset none"):
        load_data(replace(config, data_dir="torch/none"))


@pytest.mark.parametrize(
    ("data_dir", "module", "install"),
    [
        ("hfds/x", "datasets", r"cycledistill\[datasets\]"),
        ("wds/x", "webdataset", r"cycledistill\[datasets\]"),
        ("tfds/x", "tensorflow_datasets", "tensorflow-datasets"),
    ],
)
def test_missing_libraries_are_named(monkeypatch, data_dir, module, install):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == module else find(name, *a)
    )
    with pytest.raises(ImportError, match=rf"--data-dir {data_dir} needs {module}: .*{install}"):
        load_data(config_for(data_dir))


def test_unknown_names_and_splits(tmp_path, offline):
    folder = hugging_face_folder(tmp_path / "birds")
    with pytest.raises(ValueError, match=r'--val-split nowhere: .*"nowhere"'):
        load_data(config_for(f"hfds/{folder}", val_split="nowhere", **offline))
    with pytest.raises(ValueError, match=r"--data-dir hfds/.*/none, --train-split train: "):
        load_data(config_for(f"hfds/{tmp_path}/none", **offline))


@pytest.mark.parametrize("prefix", ["hfds", "hfids", "tfds", "torch", "wds"])
def test_a_prefix_without_a_name_is_told(prefix):
    with pytest.raises(ValueError, match=f"--data-dir {prefix}/: expected a name behind {prefix}/"):
        load_data(config_for(f"{prefix}/"))


@pytest.mark.parametrize(("images", "labels"), [("img", "label"), ("image", "fine")])
def test_columns_of_other_names_in_a_stream_are_told(tmp_path, offline, images, labels):
    datasets = pytest.importorskip("datasets")
    features = {images: datasets.Image(), labels: datasets.ClassLabel(names=[*CLASSES])}
    rows = datasets.Dataset.from_dict(
        {images: [picture(0), picture(1)], labels: [0, 1]}, datasets.Features(features)
    )
    for split in ("train", "validation"):
        rows.to_parquet(tmp_path / "birds" / f"{split}.parquet")
    config = config_for(
        f"hfids/{tmp_path / 'birds'}",
        train_split="train|2",
        val_split="validation|2",
        num_classes=3,
        **offline,
    )
    data = load_data(config)
    for read in (lambda: data.train[0], lambda: next(iter(data.val))):
        with pytest.raises(ValueError, match=r"found no column '(image|label)'; --input-key and"):
            read()


@pytest.mark.parametrize("saved", [False, True])
def test_columns_of_other_names_are_told(tmp_path, offline, saved):
    """Without their names, timm makes up a column, or finds no names of classes."""
    datasets = pytest.importorskip("datasets")
    features = {"img": datasets.Image(), "fine": datasets.ClassLabel(names=[*CLASSES])}
    rows = datasets.Dataset.from_dict(
        {"img": [picture(0), picture(1)], "fine": [0, 1]}, datasets.Features(features)
    )
    if saved:
        datasets.DatasetDict(train=rows, validation=rows).save_to_disk(tmp_path / "birds")
    else:
        for split in ("train", "validation"):
            rows.to_parquet(tmp_path / "birds" / f"{split}.parquet")
    config = config_for(f"hfds/{tmp_path / 'birds'}", **offline)
    for keys in ({}, {"num_classes": 3}, {"input_key": "img"}, {"target_key": "fine"}):
        image, label = keys.get("input_key", "image"), keys.get("target_key", "label")
        text = f"expected the columns {image} and {label}, found img, fine; --input-key"
        with pytest.raises(ValueError, match=f"--data-dir .*--train-split train: {text}"):
            load_data(replace(config, **keys))
    assert load_data(replace(config, input_key="img", target_key="fine")).class_names == CLASSES


def test_broken_image_in_a_shard_is_left_out(tmp_path, streamed):
    root = shards(tmp_path / "shards")
    with tarfile.open(root / "train-0.tar", "a") as tar:
        add(tar, "9999.png", b"no image")
        add(tar, "9999.cls", b"1")
    config = config_for(f"wds/{root}", epochs=1, warmup_epochs=0, batch_size=6, num_workers=0)
    assert images_of(loaded(load_data(config).train, config)) == [*range(24)]


@pytest.mark.parametrize("prefix", ["wds", "hfids"])
def test_streamed_greys_of_16_bits_keep_their_upper_8(tmp_path, streamed, offline, prefix):
    """timm's readers convert them with Pillow, which makes them white."""
    deep = Image.fromarray(np.full((32, 32), 90 * 256 + 7, np.uint16))
    if prefix == "hfids":
        root = hugging_face_folder(tmp_path / "birds")
        for path in root.rglob("*.png"):
            deep.save(path)
    else:
        root, file = shards(tmp_path / "shards"), io.BytesIO()
        deep.save(file, "png")
        for path in root.glob("*.tar"):
            with tarfile.open(path, "w") as tar:
                for index in range(6):
                    add(tar, f"{index}.png", file.getvalue())
                    add(tar, f"{index}.cls", str(index % 3).encode())
    options = {"train_split": "train|12", "val_split": "validation|6", **offline}
    options = options if prefix == "hfids" else {}
    data = load_data(config_for(f"{prefix}/{root}", **options))
    assert shade(data.train[0][0]) == shade(next(iter(data.val))[0]) == 90
