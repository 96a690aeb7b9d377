"""One decoder: a file, its bytes, a Pillow image and an array are the same picture everywhere."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cycledistill_pose import COCO, CocoKeypoints, HeatmapCodec, PosePredictor, create_model
from cycledistill_pose.cli import main
from cycledistill_pose.data import BadImageError
from cycledistill_pose.data._image_store import ImageStore
from cycledistill_pose.data._picture import is_truncated, read_rgb
from tests.pose.files import coco_file, labelled

SMALL = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
PIXELS = cv2.resize(SMALL, (80, 60), interpolation=cv2.INTER_CUBIC)
GREY = PIXELS[..., 0]
EXIF_ORIENTATION = 0x0112


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def by_opencv(ending: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(ending, pixels)[1].tobytes()


def with_tag(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = value
    return exif


RGB = Image.fromarray(PIXELS)
PALETTE = RGB.quantize(8)
SEE_THROUGH = Image.fromarray(np.dstack([PIXELS, GREY]))
WIDE_GREY = GREY.astype(np.uint16) * 256 + 255 - GREY
GREY_RGB = np.repeat(GREY[..., None], 3, 2)
PNG, JPEG = encoded(RGB, "PNG"), encoded(RGB, "JPEG", quality=95)
BITS = Image.fromarray(GREY > 128)

# A picture's file: its bytes, what it shows (RGB), and how far from it a lossy format may be.
GOOD: dict[str, tuple[bytes, np.ndarray, int]] = {
    "png": (PNG, PIXELS, 0),
    "jpg": (JPEG, PIXELS, 25),
    "grey.jpg": (encoded(Image.fromarray(GREY), "JPEG", quality=95), GREY_RGB, 25),
    "cmyk.jpg": (encoded(RGB.convert("CMYK"), "JPEG", quality=95), PIXELS, 25),
    "progressive.jpg": (encoded(RGB, "JPEG", quality=95, progressive=True), PIXELS, 25),
    "grey.png": (encoded(Image.fromarray(GREY), "PNG"), GREY_RGB, 0),
    "grey16.png": (by_opencv(".png", WIDE_GREY), GREY_RGB, 0),
    "grey16.tif": (by_opencv(".tif", WIDE_GREY), GREY_RGB, 0),
    "rgb16.png": (by_opencv(".png", PIXELS[..., ::-1].astype(np.uint16) * 256 + 77), PIXELS, 0),
    "rgba16.png": (
        by_opencv(".png", np.dstack([PIXELS[..., ::-1], GREY]).astype(np.uint16) * 257),
        PIXELS,
        0,
    ),
    "grey16.pgm": (by_opencv(".pgm", WIDE_GREY), GREY_RGB, 0),
    "palette.png": (encoded(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB")), 0),
    "palette4.png": (encoded(PALETTE, "PNG", bits=4), np.asarray(PALETTE.convert("RGB")), 0),
    "transparent.png": (
        encoded(PALETTE, "PNG", transparency=2),
        np.asarray(PALETTE.convert("RGB")),
        0,
    ),
    "alpha.png": (encoded(SEE_THROUGH, "PNG"), PIXELS, 0),
    "grey_alpha.png": (
        encoded(Image.fromarray(np.dstack([GREY, PIXELS[..., 1]])), "PNG"),
        GREY_RGB,
        0,
    ),
    "bits.png": (encoded(BITS, "PNG"), np.asarray(BITS.convert("RGB")), 0),
    "gif": (
        encoded(PALETTE, "GIF", save_all=True, append_images=[PALETTE.rotate(90)]),
        np.asarray(PALETTE.convert("RGB")),
        0,
    ),
    "bmp": (encoded(RGB, "BMP"), PIXELS, 0),
    "webp": (encoded(RGB, "WEBP", lossless=True), PIXELS, 0),
    "tif": (encoded(RGB, "TIFF"), PIXELS, 0),
    "behind.png": (PNG + b"\0" * 100, PIXELS, 0),
    "behind.jpg": (JPEG + b"\xff\xda" + b"a film" * 50, PIXELS, 25),
    "thumbnail.jpg": (
        JPEG[:2] + b"\xff\xe1" + (len(JPEG) + 2).to_bytes(2, "big") + JPEG + JPEG[2:],
        PIXELS,
        25,
    ),
    "odd_exif.jpg": (encoded(RGB, "JPEG", quality=95, exif=b"Exif\0\0MM\0*junk"), PIXELS, 25),
    "odd_exif_value.png": (encoded(RGB, "PNG", exif=with_tag(99)), PIXELS, 0),
}


@pytest.mark.parametrize("name", GOOD)
def test_all_ways_to_a_picture_agree(name: str, tmp_path: Path) -> None:
    data, shown, tolerance = GOOD[name]
    path = tmp_path / f"a.{name}"
    path.write_bytes(data)
    pixels = read_rgb(path)
    assert pixels.dtype == np.uint8 and pixels.shape == shown.shape
    assert abs(pixels.astype(int) - shown).max() <= tolerance
    np.testing.assert_array_equal(read_rgb(data), pixels)
    np.testing.assert_array_equal(ImageStore(tmp_path).read(path.name), pixels)
    np.testing.assert_array_equal(ImageStore({"a": data}).read("a"), pixels)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(read_rgb(opened), pixels)
        if opened.mode not in ("P", "CMYK", "I"):  # numbers of colours and inks say nothing alone
            np.testing.assert_array_equal(read_rgb(np.asarray(opened)), pixels)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright_unless_they_were_measured_lying(
    form: str, orientation: int
) -> None:
    """Against Pillow's own turn; a size that is the lying photo's says not to turn it."""
    from PIL import ImageOps

    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(RGB, form, exif=with_tag(orientation), **options)
    with Image.open(io.BytesIO(data)) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened))
    lying = read_rgb(encoded(RGB, form, **options))
    height, width = upright.shape[:2]
    for size in (None, (width, height)):
        np.testing.assert_array_equal(read_rgb(data, size), upright)
        with Image.open(io.BytesIO(data)) as opened:
            np.testing.assert_array_equal(read_rgb(opened, size), upright)
    if orientation > 4:
        np.testing.assert_array_equal(read_rgb(data, (height, width)), lying)
        reduced = read_rgb(data, (height, width), reduce=2)
        assert reduced.shape == (30, 40, 3)
        assert abs(reduced.astype(int) - cv2.resize(lying, (40, 30))).mean() < 6
    else:
        with pytest.raises(BadImageError, match="is 80 x 60 px, but its annotation says 60 x 80"):
            read_rgb(data, (height, width))
    with pytest.raises(BadImageError, match="keypoints would not fit"):
        read_rgb(data, (81, 60))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_blocks_count_from_the_upright_corner(form: str, orientation: int) -> None:
    """Also where the stored picture's last blocks, which become the first, are incomplete."""
    picture = Image.fromarray(PIXELS[:53, :77])
    data = encoded(picture, form, exif=with_tag(orientation), quality=95)
    whole = Image.fromarray(read_rgb(data))
    for size in (None, (77, 53)):
        expected = np.asarray(Image.fromarray(read_rgb(data, size)).reduce(4), int)
        found = read_rgb(data, size, reduce=4)
        assert found.shape == expected.shape
        assert abs(found - expected).max() <= (30 if form == "JPEG" and orientation == 1 else 0)
    assert whole.size == ((77, 53) if orientation < 5 else (53, 77))


@pytest.mark.parametrize(("width", "height"), [(80, 60), (83, 61), (9, 7), (3, 200)])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_reduced_pictures_have_the_rounded_up_size(form: str, width: int, height: int) -> None:
    data = encoded(RGB.resize((width, height)), form)
    for reduce in (1, 2, 4, 8):
        shape = read_rgb(data, (width, height), reduce).shape
        assert shape == (-(-height // reduce), -(-width // reduce), 3)


def floating_point() -> bytes:
    return encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF")


def cut(data: bytes, part: float) -> bytes:
    return data[: int(part * len(data))]


BAD: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "is empty"),
    "text.jpg": (b"no image", "cannot be read as an image: 8 bytes cannot be decoded"),
    "half.jpg": (cut(JPEG, 0.5), "is truncated"),
    "no_end.jpg": (JPEG[:-2], "is truncated"),
    "download.jpg": (cut(JPEG, 0.7) + bytes(len(JPEG)), "is truncated"),
    "half.png": (cut(PNG, 0.5), "is truncated"),
    "download.png": (cut(PNG, 0.7) + bytes(len(PNG)), "is truncated"),
    "no_end.png": (PNG[:-6], "is truncated"),
    "half.bmp": (cut(encoded(RGB, "BMP"), 0.5), "cannot be decoded"),
    "half.webp": (cut(encoded(RGB, "WEBP"), 0.5), "cannot be decoded"),
    "half.tif": (cut(encoded(RGB, "TIFF"), 0.5), "cannot be decoded"),
    "damaged.png": (PNG[:60] + b"damage" + PNG[66:], "cannot be decoded"),
    "header.png": (PNG[:16] + bytes(8) + PNG[24:], "cannot be decoded"),
    "float.tif": (floating_point(), "expected 8 or 16 bits a channel"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_decoded_is_one_error(name: str, tmp_path: Path) -> None:
    data, message = BAD[name]
    (tmp_path / name).write_bytes(data)
    for read in (lambda: read_rgb(tmp_path / name), lambda: ImageStore(tmp_path).read(name)):
        with pytest.raises(BadImageError, match=message) as caught:
            read()
        assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(BadImageError, match=message):
        ImageStore({"a": data}).read("a")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 5, 3)),
        np.zeros((4, 5, 3), np.int64),
        np.zeros((3, 40, 50), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros(5, np.uint8),
    ],
)
def test_arrays_that_are_no_picture(array: np.ndarray) -> None:
    with pytest.raises(BadImageError, match=r"expected uint8 \[H, W, 3\], got "):
        read_rgb(array)


def test_other_faults_are_not_the_pictures(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no image .*none\.png"):
        read_rgb(tmp_path / "none.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(BadImageError, match=r"folder\.png cannot be read: Is a directory"):
        read_rgb(tmp_path / "folder.png")
    assert not is_truncated(b"") and not is_truncated(b"BM")


def people(*names: str, size: tuple[int, int] = (80, 60)) -> dict[str, Any]:
    """A person in each of these files, in a box that would not fit them turned."""
    boxes = [labelled(i, i, [30, 8, 45, 40], [50, 20, 2] * 17) for i in range(1, len(names) + 1)]
    return coco_file(boxes, names, size)


@pytest.fixture(scope="module")
def predictor() -> PosePredictor:
    torch.manual_seed(0)
    model = create_model("tokenpose_nano")
    return PosePredictor(model, COCO, HeatmapCodec(model.input_size, model.heatmap_size))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("lying", [False, True])
def test_prediction_sees_what_training_sees(
    orientation: int, lying: bool, predictor: PosePredictor, tmp_path: Path
) -> None:
    """The crop of a photo with its annotation's size, and what the command finds in it."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "1.jpg"
    path.write_bytes(encoded(RGB, "JPEG", exif=with_tag(orientation)))
    size = (80, 60) if lying or orientation < 5 else (60, 80)
    content = people("1.jpg", size=size)
    sample = CocoKeypoints(content, path.parent, input_size=predictor.input_size)[0]
    crops, _ = predictor.crop(read_rgb(path, size), sample["box_xyxy"][None].double())
    np.testing.assert_array_equal(crops[0], sample["image"].numpy())

    expected = predictor(path, [[30, 8, 75, 48]], size=size).keypoints[0]
    with Image.open(path) as opened:
        found = predictor(opened, [[30, 8, 75, 48]], size=size).keypoints[0]
    np.testing.assert_array_equal(found, expected)
    predictor.save_pretrained(tmp_path / "plain")
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    flags = ["--checkpoint", str(tmp_path / "plain"), "--boxes", str(tmp_path / "boxes.json")]
    main(["predict", str(path.parent), *flags, "--out", str(tmp_path / "out")])
    (result,) = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = np.array(result["keypoints"]).reshape(17, 3)
    np.testing.assert_allclose(rows[:, :2], expected, atol=1e-3)
    with Image.open(tmp_path / "out" / "1.jpg.png") as drawn:
        assert drawn.size == size


@pytest.mark.parametrize("name", ["alpha.png", "grey16.png", "jpg", "bits.png", "webp"])
def test_keypoints_do_not_depend_on_the_kind_of_image(
    name: str, predictor: PosePredictor, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{name}"
    path.write_bytes(GOOD[name][0])
    expected = predictor(path)
    with Image.open(path) as opened:
        kinds: list[Any] = [str(path), path.read_bytes(), opened, np.asarray(opened)]
        for image in kinds:
            np.testing.assert_array_equal(predictor(image).keypoints, expected.keypoints)


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[Path, list[str], list[str]]:
    """A folder of good and bad images, and their names."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, (data, *_) in (GOOD | BAD).items():  # type: ignore[operator]
        (folder / f"a.{name}").write_bytes(data)
    return folder, [f"a.{name}" for name in GOOD], [f"a.{name}" for name in BAD]


def test_a_bad_image_costs_training_itself(mixed: tuple[Path, list[str], list[str]]) -> None:
    folder, good, bad = mixed
    with pytest.raises(BadImageError):
        list(CocoKeypoints(people(*good, *bad), folder))  # type: ignore[call-overload]
    dataset = CocoKeypoints(people(*good, *bad), folder, bad_images="skip")
    assert len(dataset) == len(good)
    assert dataset.report()["skipped: image broken"] == len(bad)
    other_size = CocoKeypoints(
        people(good[0]) | {"images": [{"id": 1, "file_name": good[0]}]}, folder
    )
    assert len(other_size) == 1


def test_nothing_else_is_skipped(
    mixed: tuple[Path, list[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: Any, **__: Any) -> Any:
        raise ValueError("a fault of the program")

    monkeypatch.setattr(ImageStore, "read", fault)
    folder, good, _ = mixed
    with pytest.raises(ValueError, match="a fault of the program"):
        CocoKeypoints(people(*good), folder, bad_images="skip")


def test_a_bad_image_costs_prediction_itself(
    mixed: tuple[Path, list[str], list[str]],
    predictor: PosePredictor,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, good, bad = mixed
    taken = (".bmp", ".gif", ".jpg", ".png", ".tif", ".webp")
    (folder / "a.broken_link.png").symlink_to("nowhere.png")
    good = [name for name in good if name.endswith(taken)]
    bad = [name for name in [*bad, "a.broken_link.png"] if name.endswith(taken)]
    predictor.save_pretrained(tmp_path / "plain")
    command = ["predict", str(folder), "--checkpoint", str(tmp_path / "plain"), "--out"]
    with pytest.raises(SystemExit):
        main([*command, str(tmp_path / "stopped")])
    assert "error: there is no image " in capsys.readouterr().err
    assert not (tmp_path / "stopped").exists()
    main([*command, str(tmp_path / "out"), "--skip-bad-images"])
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert sorted(result["file_name"] for result in results) == sorted(good)
    assert len(list((tmp_path / "out").glob("*.png"))) == len(good)
    for name in bad:
        assert f"left out: image {folder / name} " in printed or f"no image {folder / name}" in (
            printed
        )
    assert f"{len(good)} images, {len(good)} people: " in printed

    # With a file of boxes, a size that fits neither way is such a fault, too.
    content = people(*good)
    content["images"][0] |= {"width": 33}
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    flags = ["--boxes", str(tmp_path / "boxes.json"), "--skip-bad-images"]
    main([*command, str(tmp_path / "again"), *flags])
    assert f"{good[0]} is 80 x 60 px, but its annotation says 33 x 60" in capsys.readouterr().out

    for name in good:
        (folder / name).unlink()
    with pytest.raises(SystemExit):
        main([*command, str(tmp_path / "none"), "--skip-bad-images"])
    assert "images can be used" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_cache_keeps_what_the_decoder_gives(tmp_path: Path) -> None:
    folder: Callable[[str], Path] = lambda name: tmp_path / name  # noqa: E731
    folder("in").mkdir()
    names = ["alpha.png", "grey16.png", "cmyk.jpg", "palette.png"]
    for name in names:
        (folder("in") / name).write_bytes(GOOD[name][0])
    (folder("in") / "lying.jpg").write_bytes(encoded(RGB, "JPEG", exif=with_tag(6)))
    content = people(*names, "lying.jpg")
    plain = CocoKeypoints(content, folder("in"))
    for _ in range(2):
        cached = CocoKeypoints(content, folder("in"), crop_cache=folder("cache"))
        for index in range(len(plain)):
            assert torch.equal(cached[index]["image"], plain[index]["image"])
