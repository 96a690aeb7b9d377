"""Models, losses, accuracies and the exported folder."""

from __future__ import annotations

import json
import resource
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from deit_imagenet import compare
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import nn

from cycledistill import CycleWrapper
from cycledistill.training import save_config, start_from
from cycledistill_deit import (
    PRESETS,
    ClassificationConfig,
    build_criterion,
    create_classifier,
    cycle_accuracies,
    load_data,
    load_plain,
    load_teachers,
    load_trained,
    save_plain,
)

DIGITS = PRESETS["digits"]


def test_both_stages_in_one_run(tmp_path: Path) -> None:
    config = replace(DIGITS, mode="grow-fold", output_dir=tmp_path, num_cycles=3)
    config.validate()
    grown, folded = config.stages()
    assert (grown.mode, grown.output_dir, grown.training_cycles) == ("grow", tmp_path / "grown", 3)
    assert (folded.mode, folded.teacher) == ("fold", (tmp_path / "grown",))
    assert (folded.output_dir, folded.training_cycles) == (tmp_path / "folded", 1)
    assert DIGITS.stages() == (DIGITS,)
    for resume, later in (("never", "never"), ("other/checkpoints/step-00000001", "auto")):
        stages = replace(config, resume=resume).stages()
        assert [stage.resume for stage in stages] == [resume, later]
    for stage in (grown, folded):
        stage.validate()


def test_presets_are_valid_and_the_default_is_deits_recipe():
    for preset in PRESETS.values():
        preset.validate()
    deit = PRESETS["paper"]
    assert deit.scaled_lr == pytest.approx(5e-4 * 1024 / 512)
    assert (deit.weight_decay, deit.drop_path, deit.ema_decay) == (0.05, 0.1, 0.99996)
    assert (deit.mixup, deit.cutmix, deit.label_smoothing) == (0.8, 1.0, 0.1)
    assert (deit.random_erasing, deit.repeated_augmentation) == (0.25, 3)
    assert deit.auto_augment == "rand-m9-mstd0.5-inc1"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_cycles": 0}, "num_cycles must be at least 1, got 0"),
        ({"grad_cycles": 0}, "grad_cycles must be at least 1 or None, got 0"),
        ({"num_cycles": 1}, "mode=distill with num_cycles=1 is plain training"),
        ({"warmup_epochs": 80}, "warmup_epochs=80 must be fewer than epochs=80"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1, got 1.0"),
        ({"crop_fraction": 0.0}, "crop_fraction must be above 0 and at most 1 or None"),
        ({"in_chans": 2}, r"in_chans must be 1 \(grey\) or 3 \(colour\), got 2"),
        ({"mean": (0.5, 0.5)}, r"mean must have 1 or in_chans=1 values, got \(0.5, 0.5\)"),
        ({"std": (0.0,)}, r"std must be above 0, got \(0.0,\)"),
        ({"mode": "fold"}, "belong together, got mode=fold and teacher=\\[\\]"),
        ({"teacher": (Path("runs/grown"),)}, r"mode=distill and\s+teacher=\['runs/grown'\]"),
        ({"truth_weight": 1.1}, "truth_weight must be at least 0 and at most 1, got 1.1"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"mixup": -1.0}, "mixup must be at least 0, got -1.0"),
        ({"cutmix": float("nan")}, "cutmix must be at least 0, got nan"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0, got -1.0"),
        ({"prediction_weight": -1.0}, "prediction_weight must be at least 0, got -1.0"),
        ({"crop_padding": -1}, "crop_padding must be at least 0 or None, got -1"),
        ({"eval_batch_size": 0}, "eval_batch_size must be at least 1, got 0"),
    ],
)
def test_bad_options_are_named(changes, text):
    with pytest.raises(ValueError, match=text):
        replace(DIGITS, **changes).validate()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"lr": 5e-6}, r"min_lr=1e-05 is above the learning rate of 5e-06 \(lr=5e-06\)"),
        (
            {"lr_batch_size": 8192, "min_lr": 0.0, "warmup_lr": 1e-4},
            r"warmup_lr=0\.0001 is above .* 1\.5625e-05 \(lr=0\.002 x batch_size=64 / lr_",
        ),
    ],
)
def test_a_learning_rate_that_does_not_fall_is_a_warning(changes, text):
    with pytest.warns(UserWarning, match=text):
        replace(DIGITS, **changes).validate()


def test_an_unknown_augmentation_is_named():
    with pytest.raises(ValueError, match="auto_augment=foo: Unknown AA policy"):
        load_data(replace(DIGITS, auto_augment="foo"))


def test_deits_augmentation_reaches_0_bits():
    config = replace(DIGITS, auto_augment="rand-m10-n9-inc1")  # which 9 with noise is, too
    images = load_data(config).train
    np.random.seed(0)
    assert all(images[index][0].isfinite().all() for index in range(20))


def test_deit_tiny_is_timms():
    model = create_classifier(PRESETS["paper"], 1000)
    assert sum(p.numel() for p in model.parameters()) == 5_717_416


def test_pixels_that_no_patch_covers_are_told():
    """timm's embedding leaves out what remains at the right and lower border."""
    with pytest.warns(UserWarning, match=r"8 x 8 px in patches of 3 x 3: the last 2 and 2 px .*"):
        model = create_classifier(replace(DIGITS, patch_size=3), 2).eval()
    images = torch.randn(1, 1, 8, 8)
    other = images.clone()
    other[..., 6:] = other[..., 6:, :] = 0
    assert torch.equal(model(images), model(other))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_classifier(DIGITS, 2)


def test_unknown_model_and_option_are_named():
    with pytest.raises(ValueError, match=r"no model 'deit_tny.*did you mean deit_tiny"):
        create_classifier(replace(DIGITS, model="deit_tny_patch16_224"), 10)
    with pytest.raises(ValueError, match=r"resnet18 cannot be made with .*patch_size"):
        create_classifier(replace(DIGITS, model="resnet18"), 10)


@pytest.mark.parametrize(
    ("mode", "with_graph"), [("plain", [True]), ("cycle", [False, True]), ("distill", [True, True])]
)
def test_modes_choose_which_cycles_are_trained(mode, with_graph):
    config = replace(DIGITS, mode=mode)
    cycled = CycleWrapper(create_classifier(config, 10), config.training_cycles)
    losses = build_criterion(config)(cycled(torch.rand(4, 1, 8, 8)), torch.full((4, 10), 0.1))
    expected = losses.task[torch.tensor(with_graph)].sum()
    if mode == "distill":
        expected = expected + 5e-6 * losses.tokens["all"].sum()
    torch.testing.assert_close(losses.total, expected)
    assert config.inference_cycles == (2 if mode == "cycle" else 1)


def test_cycle_accuracies_count_every_image_once():
    class Fixed(nn.Module):
        """Predicts the class written in the image, plus one for each further cycle."""

        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Plus()])
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, images):
            classes = self.blocks[0](images[:, 0, 0, :1]) - 1
            return -(torch.arange(4.0) - classes).abs() * self.scale

    class Plus(nn.Module):
        def forward(self, x):
            return x + 1

    labels = torch.tensor([0, 1, 2, 2, 3])
    images = torch.tensor([0.0, 1, 2, 1, 0]).view(5, 1, 1, 1).expand(5, 1, 4, 4)
    model = CycleWrapper(Fixed(), blocks="blocks").eval()
    batches = [(images[:2], labels[:2]), (images[2:], labels[2:])]
    found = cycle_accuracies(model, batches, 4, 2)
    assert found == pytest.approx({"accuracy/1": 60.0, "accuracy/2": 20.0})


@pytest.mark.parametrize("preset", ["digits", "cifar10-cpu"])
def test_exported_folder_loads_strictly_into_bare_timm(tmp_path, preset):
    config = PRESETS[preset]
    model = create_classifier(config, 3).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    folder = save_plain(model, config, ("a", "b", "c"), tmp_path / "plain")
    scores = {"accuracy/1": 53.61, "accuracy/2": 54.3}
    save_plain(model, config, ("a", "b", "c"), folder, scores)  # replaces
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    _, head, card = (folder / "README.md").read_text("utf-8").split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "timm"
    assert "| 1 | 53.6 |\n| 2 | 54.3 |" in card and "in order: a, b, c." in card
    written = json.loads(card.split("```json\n")[1].split("```")[0])
    assert written["epochs"] == config.epochs and "output_dir" not in written
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]
    images = torch.rand(2, config.in_chans, config.image_size, config.image_size)
    for loaded in (
        load_plain(folder),
        timm.create_model(f"local-dir:{folder}", pretrained=True).eval(),
    ):
        assert torch.equal(loaded(images), model(images))
        assert loaded.state_dict().keys() == model.state_dict().keys()
    written = json.loads((folder / "config.json").read_text())
    assert written["label_names"] == ["a", "b", "c"]
    # timms before 1.0.31 take the channels from here alone.
    assert written["model_args"].get("in_chans", 3) == config.in_chans
    size = f"{config.in_chans} x {config.image_size} x {config.image_size}"
    assert f"Images: {size}, bicubic, center crop of 1.0, mean [0." in card
    trained = "It was trained in cycles"
    assert trained in card
    save_plain(model, replace(config, mode="plain"), ("a", "b", "c"), folder, scores)
    assert trained not in (folder / "README.md").read_text("utf-8")
    save_plain(model, replace(config, mode="cycle"), ("a", "b", "c"), folder, scores)
    used = "CycleWrapper(model, 2).eval()(images, num_cycles=2)"
    assert used in (folder / "README.md").read_text("utf-8")


@pytest.fixture
def folder_of_images(tmp_path):
    """Images of two classes that are neither square nor of one colour."""
    numbers = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for index, size in enumerate(((150, 201, 3), (90, 70, 3))):
                coarse = numbers.integers(0, 256, (5, 6, 3), dtype=np.uint8)
                image = Image.fromarray(coarse).resize(size[1::-1], Image.Resampling.BICUBIC)
                image.save(tmp_path / split / name / f"{index}.png")
    return tmp_path


def plainly(value):
    """As JSON has it: lists for tuples."""
    return json.loads(json.dumps(value))


SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3, "drop_path": 0.0}


@pytest.mark.parametrize(
    ("model", "changes", "expected"),
    [
        # Means of 0.5, a crop of 0.9.
        ("vit_tiny_patch16_224", SMALL, {"mean": (0.5,) * 3, "crop_pct": 0.9}),
        # Another size, fixed, and a crop of 0.95.
        ("test_vit", {}, {"input_size": (3, 160, 160), "mean": (0.5,) * 3, "crop_pct": 0.95}),
        # Squashed, not cropped; what holds for these weights of the model, not for all of it.
        (
            "vit_base_patch16_clip_384.laion2b_ft_in12k_in1k",
            SMALL,
            {"crop_mode": "squash", "crop_pct": 1.0, "input_size": (3, 384, 384)},
        ),
        # Weights of timm's that want another size and crop at test: these weights do not.
        ("convnext_atto", {}, {"input_size": (3, 224, 224), "crop_pct": 0.875}),
        ("convnext_atto", {"image_size": 96}, {"input_size": (3, 96, 96)}),
        # Options over all of it.
        (
            "vit_tiny_patch16_224",
            {
                **SMALL,
                **{"image_size": 64, "mean": (0.4, 0.5, 0.6), "std": (0.3,), "crop_fraction": 1.0},
                **{"interpolation": "bilinear", "crop_mode": "border"},
            },
            {
                **{"input_size": (3, 64, 64), "mean": (0.4, 0.5, 0.6), "std": (0.3,) * 3},
                **{"interpolation": "bilinear", "crop_mode": "border", "crop_pct": 1.0},
            },
        ),
        ("vit_tiny_patch16_224", {**SMALL, "in_chans": 1}, {"mean": (0.5,), "std": (0.5,)}),
    ],
)
def test_a_stranger_sees_the_images_of_the_run(folder_of_images, model, changes, expected):
    """timm alone loads the folder and prepares pixels and predicts as the run did."""
    config = ClassificationConfig(model=model, data_dir=folder_of_images, **changes)
    config.validate()
    data = load_data(config)
    plain = create_classifier(config, 2).eval()
    folder = save_plain(plain, config, data.class_names, folder_of_images / "plain")
    stranger = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    for use_test_size in (False, True):
        told = resolve_model_data_config(stranger, use_test_size=use_test_size)
        assert plainly({name: told[name] for name in expected}) == plainly(expected)
    transform = create_transform(**told, is_training=False)
    for (path, _), (pixels, _) in zip(data.val.source.samples, data.val, strict=True):
        image = Image.open(path).convert("L" if config.in_chans == 1 else "RGB")
        seen = transform(image)
        assert torch.equal(seen, pixels)
        assert torch.equal(stranger(seen[None]), plain(pixels[None]))
    assert plainly(resolve_model_data_config(plain)) == plainly(told)
    train = torch.stack([image for image, _ in data.train])
    assert list(train.shape[1:]) == plainly(told["input_size"])
    unmixed = load_data(replace(config, random_erasing=0.0, auto_augment=None, color_jitter=None))
    lightest = max(image.amax() for image, _ in unmixed.train)
    white = max((1 - mean) / std for mean, std in zip(told["mean"], told["std"], strict=True))
    assert lightest <= white + 1e-6


def test_failed_export_leaves_nothing(tmp_path, monkeypatch):
    import cycledistill_deit._export as export

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(export, "save_for_hf", fail)
    with pytest.raises(OSError, match="disk full"):
        save_plain(create_classifier(DIGITS, 2), DIGITS, ("a", "b"), tmp_path / "plain")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_error(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limits[1]))  # no file may become larger
    try:
        with pytest.raises(OSError, match=r"plain cannot be written: .*File too large"):
            save_plain(create_classifier(DIGITS, 2), DIGITS, ("a", "b"), tmp_path / "plain")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_must_have_the_classes_and_the_images_of_the_run(tmp_path):
    save_plain(create_classifier(DIGITS, 2), DIGITS, ("cat", "dog"), tmp_path / "net")
    fold = replace(DIGITS, mode="fold", teacher=(tmp_path / "net",))
    assert len(load_teachers(fold, ("cat", "dog"))) == 1
    for names in (("dog", "cat"), ("cat", "dog", "owl")):
        words = rf"net is .*expected {len(names)} \({', '.join(names)}\), got 2"
        with pytest.raises(ValueError, match=words):
            load_teachers(fold, names)
        with pytest.raises(ValueError, match=r"net is a network for other classes"):
            load_teachers(replace(DIGITS, beside=(tmp_path / "net",)), names)
    settings = json.loads((tmp_path / "net" / "config.json").read_text())
    del settings["label_names"]  # as a network has it that was not trained here
    (tmp_path / "net" / "config.json").write_text(json.dumps(settings))
    assert len(load_teachers(fold, ("dog", "cat"))) == 1
    with pytest.raises(ValueError, match=r"expected 3 \(a, b, c\), got 2 \(without names\)"):
        load_teachers(replace(DIGITS, beside=(tmp_path / "net",)), ("a", "b", "c"))
    for name, value in (("mean", (0.1,)), ("std", (0.1,)), ("image_size", 16)):
        with pytest.raises(ValueError, match=r"teacher .*net: expected images of \{.*\}, got \{"):
            load_teachers(replace(fold, **{name: value}), ("cat", "dog"))
    with pytest.raises(FileNotFoundError, match=r"nowhere has no model\.safetensors"):
        load_teachers(replace(DIGITS, beside=(tmp_path / "nowhere",)), ("cat", "dog"))


def test_networks_of_other_channels_are_compared(folder_of_images):
    small = {"data_dir": folder_of_images, "image_size": 32, "patch_size": 16, "depth": 1}
    config = ClassificationConfig(**{**SMALL, **small}, mean=(0.4, 0.5, 0.6), mode="fold")
    folders = []
    for name, options in (("own", config), ("grey", replace(config, in_chans=1, mean=None))):
        model = create_classifier(options, 2)
        folders.append(save_plain(model, options, ("a", "b"), folder_of_images / name))
    config = replace(config, output_dir=folders[0], beside=(folders[1],), num_workers=0)
    assert compare(config, 2, "cpu").row_count == 2


def test_only_an_own_folder_is_replaced(tmp_path: Path) -> None:
    model, folder = create_classifier(DIGITS, 2), tmp_path / "plain"
    for _ in range(2):
        save_plain(model, DIGITS, ("a", "b"), folder)
    (tmp_path / "other").touch()
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert modes == {(tmp_path / "other").stat().st_mode}
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"found notes\.txt, README\.md"):
        save_plain(model, DIGITS, ("a", "b"), folder)
    (folder / "notes.txt").unlink()
    (folder / "README.md").write_text("a timm model of somebody's")
    with pytest.raises(FileExistsError):
        save_plain(model, DIGITS, ("a", "b"), folder)
    assert (folder / "README.md").read_text() == "a timm model of somebody's"


def test_what_a_run_left_is_loaded_with_its_cycles(tmp_path):
    images = torch.randn(4, 1, 8, 8)
    for mode, cycles in (("grow", 3), ("cycle", 3), ("distill", 1), ("plain", 1)):
        config = replace(DIGITS, mode=mode, num_cycles=3, blocks="blocks", beside=(tmp_path,))
        model = create_classifier(config, 2).eval()
        folder = tmp_path / mode
        save_plain(model, config, ("a", "b"), folder / "plain")
        save_config(config, folder / "config.yaml")
        trained = load_trained(folder)
        assert trained.num_cycles == cycles == config.inference_cycles
        expected = CycleWrapper(model).eval()(images, num_cycles=cycles)
        assert torch.equal(trained.eval()(images, num_cycles=cycles), expected)
        student = create_classifier(config, 2)
        start_from(student, trained, folder)
        assert all(torch.equal(v, student.state_dict()[n]) for n, v in model.state_dict().items())
    assert str(tmp_path) not in (tmp_path / "grow" / "plain" / "README.md").read_text()
    bare = load_trained(tmp_path / "grow" / "plain")
    assert bare.num_cycles == 3 and bare.stack_path == "blocks"
    assert load_trained(tmp_path / "distill" / "plain").num_cycles == 1
    with pytest.raises(ValueError, match=r"cannot start from the weights of .*bare"):
        start_from(create_classifier(DIGITS, 3), bare, tmp_path / "bare")
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors: expected the folder"):
        load_trained(tmp_path / "nothing")


def test_folding_weighs_the_truth_and_the_teacher():
    teacher, student = (create_classifier(DIGITS, 3).eval() for _ in range(2))
    config = replace(DIGITS, mode="fold", teacher=(Path("t"),), truth_weight=0.3, temperature=4.0)
    config.validate()
    assert (config.training_cycles, config.inference_cycles) == (1, 1)
    images, targets = torch.randn(5, 1, 8, 8), torch.rand(5, 3).softmax(-1)
    losses = build_criterion(config, [teacher])(student(images), targets, inputs=images)
    own, told = ((model(images) / 4).log_softmax(-1) for model in (student, teacher))
    kl = 16 * (told.exp() * (told - own)).sum(-1).mean()
    task = -(targets * student(images).log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(losses.total, 0.3 * task + 0.7 * kl)
