"""The cache of decoded images: the same pixels, decoded once, and never another image's."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from cycledistill_pose import CocoKeypoints, PoseAugmentation
from cycledistill_pose.codecs import RegressionCodec
from cycledistill_pose.data._image_store import ImageStore
from cycledistill_pose.recipes import PoseConfig, open_people
from tests.pose.files import coco_file, labelled

SIZE = (48, 64)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Three images with two people each: annotations and folder."""
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    people = []
    for number in range(1, 4):
        small = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        write(folder / f"{number}.jpg", cv2.resize(small, (320, 240)))
        for place in range(2):
            x, y = 20 + 140 * place, 30.0
            keypoints = [x + 40, y + 20, 2, x + 60, y + 150, 2]
            people.append(labelled(10 * number + place, number, [x, y, 100, 180], keypoints))
    names = [f"{number}.jpg" for number in range(1, 4)]
    content = coco_file(people, names, (320, 240), ["foot", "bulb"])
    path = tmp_path / "people.json"
    path.write_text(json.dumps(content))
    return path, folder


def write(path: Path, pixels: np.ndarray) -> None:
    cv2.imwrite(str(path), pixels)


def load(files: tuple[Path, Path], cache: Path | None = None, **options: Any) -> CocoKeypoints:
    options = {"augmentation": PoseAugmentation(), **options}
    return CocoKeypoints(*files, input_size=SIZE, crop_cache=cache, **options)


def assert_same(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that were decoded."""
    names: list[str] = []
    read = ImageStore.read

    def counted(self: ImageStore, name: str, *rest: Any, **options: Any) -> Any:
        names.append(name)
        return read(self, name, *rest, **options)

    monkeypatch.setattr(ImageStore, "read", counted)
    return names


@pytest.mark.parametrize("reduced", [False, True])
def test_same_pixels_and_decoded_once(
    files: tuple[Path, Path], tmp_path: Path, decoded: list[str], reduced: bool
) -> None:
    plain = load(files, reduced_decoding=reduced)
    cached = load(files, tmp_path / "cache", reduced_decoding=reduced)
    for epoch in range(6):
        plain.set_epoch(epoch), cached.set_epoch(epoch)
        expected = [plain[index] for index in range(6)]
        decoded.clear()
        for index in range(6):
            assert_same(cached[index], expected[index])
        # With reduced decoding a later epoch may want another resolution for the first time.
        assert len(decoded) == (3 if epoch == 0 else 0) or reduced
    decoded.clear()
    again = load(files, tmp_path / "cache", reduced_decoding=reduced)
    again.set_epoch(5)
    for index in range(6):
        assert_same(again[index], expected[index])
    assert not decoded


def test_a_batch_decodes_an_image_once_for_all_in_it(
    files: tuple[Path, Path], decoded: list[str]
) -> None:
    people = load(files)
    expected = [people[index] for index in range(6)]
    assert len(decoded) == 6
    decoded.clear()
    for found, sample in zip(people.__getitems__(list(range(6))), expected, strict=True):
        assert_same(found, sample)
    assert sorted(decoded) == ["1.jpg", "2.jpg", "3.jpg"]


def test_another_image_under_the_same_name(files: tuple[Path, Path], tmp_path: Path) -> None:
    cached = load(files, tmp_path / "cache")
    before = cached[0]["image"]
    source = files[1] / "1.jpg"
    write(source, np.full((240, 320, 3), 77, np.uint8))
    os.utime(source, (1, 1))
    for people in (cached, load(files, tmp_path / "cache")):
        assert_same(people[0], load(files)[0])
        assert not torch.equal(people[0]["image"], before)


@pytest.mark.parametrize("damage", ["cut", "pixel", "foreign", "empty", "header"])
def test_damaged_files_are_written_anew(
    files: tuple[Path, Path], tmp_path: Path, damage: str
) -> None:
    cache = tmp_path / "cache"
    expected = load(files, cache)[0]
    (path,) = (p for p in cache.rglob("*") if p.is_file())
    whole = path.read_bytes()
    broken = {
        "cut": whole[:-5],
        "pixel": whole[:-1000] + bytes(b ^ 255 for b in whole[-1000:-996]) + whole[-996:],
        "foreign": b"GIF89a" * 400,
        "empty": b"",
        "header": b"[[23" + whole[4:],
    }[damage]
    path.unlink()
    path.write_bytes(broken)
    assert_same(load(files, cache)[0], expected)
    assert path.read_bytes() == whole
    assert [p for p in cache.rglob("*") if p.is_file()] == [path]


def fill(files: tuple[Path, Path], cache: Path, answers: Any) -> None:
    people = load(files, cache)
    answers.put([people[index]["image"].numpy() for _ in range(3) for index in range(6)])


def test_two_processes_fill_one_folder(files: tuple[Path, Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [context.Process(target=fill, args=(files, cache, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    plain = load(files)
    expected = [plain[index]["image"].numpy() for _ in range(3) for index in range(6)]
    for images in found:
        np.testing.assert_array_equal(images, expected)
    names = [path.name for path in cache.rglob("*") if path.is_file()]
    assert len(names) == 3 and not any(name.startswith(".") for name in names)


def test_a_folder_that_cannot_be_written_is_said_once(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cached, plain = load(files, tmp_path / "cache"), load(files)
    with pytest.warns(UserWarning, match="cannot be written to .No space left") as warned:
        for index in range(6):
            assert_same(cached[index], plain[index])
    assert len(warned) == 1
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_what_cannot_be_cached(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"crop_cache: expected a folder, got the file .*file"):
        load(files, tmp_path / "file")
    images = {path.name: path.read_bytes() for path in files[1].iterdir()}
    with pytest.raises(ValueError, match="crop_cache needs images in a folder"):
        CocoKeypoints(files[0], images, crop_cache=tmp_path / "cache")
    with pytest.raises(ValueError, match="crop_cache is for image files, but there"):
        open_people(PoseConfig(crop_cache=tmp_path / "cache"))


def test_options_of_the_recipe(
    files: tuple[Path, Path], tmp_path: Path, decoded: list[str]
) -> None:
    config = PoseConfig(
        dataset="files",
        data_root=tmp_path,
        train_annotations=Path("people.json"),
        train_images=Path("images"),
        val_annotations=Path("people.json"),
        val_images=Path("images"),
        crop_cache=tmp_path / "cache",
        reduced_decoding=True,
    )
    training, people = open_people(config)
    train, val = training.crops(RegressionCodec(SIZE)), people.crops(SIZE)
    train[0], val[0]
    first = len(decoded)
    train[0], val[0]
    assert first > 0 and len(decoded) == first
    assert train.reduced_decoding and val.reduced_decoding
