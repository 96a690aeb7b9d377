"""Networks compared: figures, pairing, cases, the page and the errors."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cycledistill_pose import (
    COCO,
    CROWDPOSE,
    HeatmapCodec,
    HeatmapMSELoss,
    SyntheticPeople,
    create_model,
    load_plain,
    normalize_images,
    save_plain,
)
from cycledistill_pose.cli import main
from cycledistill_pose.comparison import Comparison, compare_checkpoints, comparison_page
from cycledistill_pose.data import pose_loader
from cycledistill_pose.metrics import oks
from cycledistill_pose.prediction import PosePredictor, predict_cycles
from cycledistill_pose.recipes import PoseConfig, open_evaluation
from cycledistill_pose.skeletons import Skeleton

CONFIG = PoseConfig(easy_synthetic=True, num_synthetic_val=12, num_workers=0)
OPTIONS: dict[str, Any] = {"input_size": (48, 64), "heatmap_size": (12, 16), "depth": 1}


def saved(folder: Path, seed: int, skeleton: Skeleton = COCO) -> Path:
    torch.manual_seed(seed)
    model = create_model("tokenpose_nano", skeleton.num_keypoints, **OPTIONS)
    codec = {"method": "dark", "sigma": 1.0}
    return save_plain(model, folder, "tokenpose_nano", OPTIONS, skeleton, codec)


def learnt(folder: Path, seed: int, steps: int) -> Path:
    """A network that has half learnt the twelve people of `CONFIG` by heart: AP above 0."""
    torch.manual_seed(seed)
    people = open_evaluation(CONFIG).crops((48, 64))
    batch = next(iter(pose_loader(people, batch_size=12)))
    images = normalize_images(batch["image"])
    codec = HeatmapCodec((48, 64), (12, 16), 1.0, "dark", 5)
    target, weight = codec.encode(batch["keypoints"], batch["visible"])
    model = create_model("tokenpose_nano", COCO.num_keypoints, **OPTIONS)
    optimizer, criterion = torch.optim.Adam(model.parameters(), 2e-3), HeatmapMSELoss()
    for _ in range(steps):
        optimizer.zero_grad()
        criterion(model(images), target, weight).backward()
        optimizer.step()
    codec_options = {"method": "dark", "sigma": 1.0}
    return save_plain(model.eval(), folder, "tokenpose_nano", OPTIONS, COCO, codec_options)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a strange name with two networks, of which the second has learnt for longer."""
    room = tmp_path_factory.mktemp("networks") / "<b>&"
    learnt(room / "net0", 0, 50)
    learnt(room / "net1", 1, 90)
    return room


@pytest.fixture(scope="module")
def comparison(room: Path) -> Comparison:
    return compare_checkpoints(
        [room / "net0", room / "net1"], CONFIG, num_cycles=2, resamples=20, cases=3
    )


@pytest.fixture(scope="module")
def page(comparison: Comparison) -> str:
    return comparison_page(comparison)


def test_rows_are_every_combination_and_pair_with_the_first(comparison: Comparison) -> None:
    keys = [(Path(row.checkpoint).name, row.num_cycles, row.flip_test) for row in comparison.rows]
    assert keys == [
        (f"net{i}", cycles, flip) for i in (0, 1) for flip in (True, False) for cycles in (1, 2)
    ]
    for first, second in zip(comparison.rows[:4], comparison.rows[4:], strict=True):
        assert first.difference is None and first.difference_interval is None
        assert second.difference == pytest.approx(second.scores["AP"] - first.scores["AP"])
        assert second.difference_interval is not None
        low, high = second.difference_interval
        assert second.scores["AP"] > 0 and second.interval[0] < second.interval[1]
        assert low <= high and first.interval[0] <= first.interval[1]
        assert {"AP50", "AP75", "AR", "PCK"} <= second.scores.keys()


def test_networks_without_flip_pairs_are_not_mirrored(tmp_path: Path) -> None:
    folder = saved(tmp_path / "net", 0, dataclasses.replace(COCO, flip_pairs=()))
    found = compare_checkpoints([folder], CONFIG, num_cycles=1, resamples=2, cases=1)
    assert [row.flip_test for row in found.rows] == [False]


def test_cases_are_the_worst_and_best_people(comparison: Comparison, room: Path) -> None:
    """Against OKS of every person, predicted and measured here without the package's own loop."""
    annotations, _ = SyntheticPeople.coco(12, seed=1, easy=True)
    truth = {person["image_id"]: person for person in annotations["annotations"]}
    found: dict[int, list[float]] = {}
    for i in (0, 1):
        predictor = PosePredictor.from_pretrained(room / f"net{i}")
        for sample in open_evaluation(CONFIG).crops((48, 64)):
            images = (sample["image"][None].permute(0, 3, 1, 2) / 255.0).float()
            mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            images = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
            points, _ = predict_cycles(
                predictor.model, images, predictor.codec, 1, COCO.flip_indices
            )[0]
            matrix = np.linalg.inv(np.vstack([sample["crop_matrix"], [0, 0, 1]]))[:2]
            pose = points[0].numpy() @ matrix[:, :2].T + matrix[:, 2]
            person = truth[int(sample["image_id"])]
            labelled = np.array(person["keypoints"], float).reshape(1, -1, 3)
            value = oks(labelled[..., :2], pose[None], [person["area"]], visible_a=labelled[..., 2])
            found.setdefault(person["image_id"], []).append(float(value[0, 0]))
    ranked = sorted(found, key=lambda image: sum(found[image]))
    by_kind = {
        kind: [case.image_id for case in comparison.cases if case.kind == kind]
        for kind in ("worst", "best", "differs")
    }
    assert by_kind["worst"] == ranked[:3] and by_kind["best"] == ranked[:-4:-1]
    assert len(by_kind["differs"]) == 3
    assert len({case.image_id for case in comparison.cases}) == 9
    for case in comparison.cases:
        assert case.oks == pytest.approx(found[case.image_id], abs=1e-4)
        assert case.crop.shape == (256, 192, 3)
        # The similarity is the same in px of the crop, with the area in these.
        side = np.linalg.norm(case.truth[5] - case.truth[12])
        person = np.array(truth[case.image_id]["keypoints"], float).reshape(-1, 3)
        factor = side / np.linalg.norm(person[5, :2] - person[12, :2])
        area = truth[case.image_id]["area"] * factor**2
        again = oks(
            case.truth[None], case.predictions[0][None], [area], visible_a=case.visible[None]
        )
        assert float(again[0, 0]) == pytest.approx(case.oks[0], abs=1e-3)


def test_more_cases_than_people_show_nobody_twice(room: Path) -> None:
    config = dataclasses.replace(CONFIG, num_synthetic_val=5)
    found = compare_checkpoints([room / "net0"], config, 1, [False], resamples=2, cases=4)
    assert sorted(case.image_id for case in found.cases) == [1, 2, 3, 4, 5]
    assert [case.kind for case in found.cases] == ["worst"] * 4 + ["best"]


class Tags(HTMLParser):
    """Start tags with their attributes, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_holds_everything_itself(page: str, comparison: Comparison) -> None:
    parsed = Tags(page)
    assert parsed.open == []
    images = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) == 3 * len(comparison.cases)  # truth and two networks
    assert all((i["src"] or "").startswith("data:image/jpeg;base64,") and i["alt"] for i in images)
    assert not re.search(r"https?:|//cdn|@import|url\(", page)
    assert not any({"href", "srcset"} & attributes.keys() for _, attributes in parsed.tags)
    assert [a for tag, a in parsed.tags if tag == "script"] == [{}]
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page


def test_the_page_escapes_names_and_says_the_figures(page: str, comparison: Comparison) -> None:
    assert "<b>&/" not in page and "&lt;b&gt;&amp;/net1" in page
    for row in comparison.rows:
        low, high = row.interval
        assert f"{row.scores['AP']:.1f} <span" in page and f"[{low:.1f}, {high:.1f}]" in page
    articles = [attributes for tag, attributes in Tags(page).tags if tag == "article"]
    assert [float(a["data-oks1"] or "") for a in articles] == pytest.approx(
        [case.oks[1] for case in comparison.cases], abs=1e-4
    )


@pytest.mark.slow
def test_a_browser_sorts_the_page(page: str, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the PATH")
    # Clicks AP twice (falling, then rising) and the first network's OKS once. The look at 400 px is
    # in a frame, because a headless window cannot be that narrow: nothing may stick out.
    clicks = """<script>
      document.querySelectorAll("th button")[3].click();
      document.querySelectorAll("th button")[3].click();
      document.querySelectorAll(".sort button")[2].click();
      document.body.dataset.tested = "yes";
    </script></body>"""
    (tmp_path / "page.html").write_text(page.replace("</body>", clicks), encoding="utf-8")
    (tmp_path / "frame.html").write_text(
        '<body><iframe src="page.html" style="width:400px;height:900px;border:0"></iframe><script>'
        "onload = () => { const d = document.querySelector('iframe').contentDocument;"
        "const e = d.documentElement; document.body.dataset.width = d.defaultView.innerWidth;"
        "document.body.dataset.over = e.scrollWidth - e.clientWidth;"
        "document.body.dataset.broken = [...d.images].filter((i) => i.complete &&"
        " !i.naturalWidth).length; };</script></body>"
    )

    def dom(name: str) -> str:
        done = subprocess.run(
            [
                *(chromium, "--headless", "--no-sandbox", "--disable-gpu"),
                *("--disable-background-networking", "--allow-file-access-from-files"),
                *(f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"),
                (tmp_path / name).as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "HOME": str(tmp_path)},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    tags = Tags(dom("page.html")).tags
    assert "yes" in [attributes.get("data-tested") for tag, attributes in tags if tag == "body"]
    cells = [attributes["data-value"] for tag, attributes in tags if tag == "td"]
    per_row = len(cells) // 8
    shown = [float(value or "") for value in cells[3::per_row]]
    assert len(set(shown)) > 1 and shown == sorted(shown)
    values = [float(a["data-oks0"] or "") for tag, a in tags if tag == "article"]
    assert len(set(values)) > 1 and values == sorted(values)
    body = next(attributes for tag, attributes in Tags(dom("frame.html")).tags if tag == "body")
    assert [body[f"data-{name}"] for name in ("width", "over", "broken")] == ["400", "0", "0"]


def run(*arguments: object) -> None:
    main(["evaluate", *map(str, arguments)])


def test_the_command_writes_scores_and_page(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(room / "net0", room / "net1", "--easy-synthetic", "--num-synthetic-val", 6, "--out", out,
        "--num-cycles", 1, "--flip-test", "off", "--bootstrap", 5, "--cases", 1)  # fmt: skip
    scores = json.loads((out / "scores.json").read_text())
    assert scores["evaluated_on"]["people"] == 6 and scores["bootstrap"] == 5
    assert [(row["num_cycles"], row["flip_test"]) for row in scores["rows"]] == [(1, False)] * 2
    assert scores["rows"][0]["difference"] is None
    assert scores["rows"][1]["difference_interval"][0] <= scores["rows"][1]["difference"] + 1e-9
    assert [case["kind"] for case in scores["cases"]] == ["worst", "best", "differs"]
    assert (out / "report.html").read_text().count("<article") == 3
    low, high = scores["rows"][1]["interval"]
    printed = capsys.readouterr().out
    assert f"[{low:.1f}, {high:.1f}]" in printed and "6 people" in printed
    assert f" {room / 'net1'} " in printed  # in one line, however long


def test_a_folder_that_cannot_be_written_is_an_error_before_the_evaluation(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("cycledistill_pose.cli._evaluate.compare_checkpoints", pytest.fail)
    with pytest.raises(SystemExit):
        run(room / "net0", "--out", tmp_path / "file" / "out")
    assert "exists" in capsys.readouterr().err.lower()


def test_cases_are_after_the_cycles_that_each_network_is_used_with(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_plain(room / "net0")
    parts = ("tokenpose_nano", OPTIONS, COCO, loaded.codec)
    save_plain(loaded.model, tmp_path / "net", *parts, num_cycles=3)
    networks = [room / "net0", tmp_path / "net"]
    run(*networks, "--easy-synthetic", "--num-synthetic-val", 3, "--out", tmp_path / "out",
        "--flip-test", "off", "--bootstrap", 2, "--cases", 3)  # fmt: skip
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [row["num_cycles"] for row in scores["rows"]] == [1, 2, 3] * 2
    for column, cycles in enumerate((1, 3)):
        predictor = PosePredictor.from_pretrained(networks[column], num_cycles=cycles)
        truth, pictures = SyntheticPeople.coco(3, seed=1, easy=True)
        for person in truth["annotations"]:
            box = np.array(person["bbox"])
            picture = pictures[truth["images"][person["image_id"] - 1]["file_name"]]
            pose = predictor(picture, [[*box[:2], *(box[:2] + box[2:])]]).keypoints
            true = np.array(person["keypoints"], float).reshape(1, -1, 3)
            value = oks(true[..., :2], pose, [person["area"]], visible_a=true[..., 2])
            (case,) = (c for c in scores["cases"] if c["image_id"] == person["image_id"])
            assert case["oks"][column] == pytest.approx(value[0, 0], abs=1e-3)
    assert "with 1, 3 cycle(s), as each network is used" in capsys.readouterr().out
    assert "1 or 3 cycle(s), as each" in (tmp_path / "out" / "report.html").read_text()


def test_files_and_detected_boxes(room: Path, tmp_path: Path) -> None:
    """The training files need not be there; cases are people even where boxes are a detector's."""
    SyntheticPeople.write_coco(tmp_path / "data", num_train=1, num_val=4)
    root = tmp_path / "data"
    shutil.rmtree(root / "train2017")
    (root / "annotations" / "person_keypoints_train2017.json").unlink()
    people = json.loads((root / "annotations" / "person_keypoints_val2017.json").read_text())
    boxes = [
        {**{key: p[key] for key in ("image_id", "category_id", "bbox")}, "score": 0.7}
        for p in people["annotations"]
        if not p["iscrowd"]
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    out = tmp_path / "out"
    run(room / "net0", "--data-root", root, "--detections", tmp_path / "boxes.json", "--out", out,
        "--num-cycles", 1, "--bootstrap", 3, "--cases", 2)  # fmt: skip
    scores = json.loads((out / "scores.json").read_text())
    assert "PCK" not in scores["rows"][0]["scores"] and len(scores["cases"]) >= 2
    assert all(case["annotation_id"] > 0 for case in scores["cases"])


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        ("missing", "is not a folder here, and the Hugging Face Hub gave no model of this name"),
        ("skeleton", "17 keypoints of 'coco', expected the 14 of 'crowdpose' as in the network"),
        ("twice", "checkpoints: expected different folders"),
        ("cycles", "num_cycles: expected a whole number of 1 or more, got 0"),
        ("cases", "cases: expected a whole number of 0 or more, got -1"),
        ("out", "exists; name a new folder"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    break_it: str, words: str, room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, out = tmp_path / "bad", tmp_path / "out"
    extra: list[object] = []
    if break_it == "skeleton":
        saved(bad, 0, CROWDPOSE)
    elif break_it == "twice":
        bad = room / "net0"
    elif break_it in ("cycles", "cases", "out"):
        saved(bad, 0)
        extra = {"cycles": ["--num-cycles", 0], "cases": ["--cases", -1]}.get(break_it, [])
    if break_it == "out":
        out.mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stopped:
        run(room / "net0", bad, "--num-synthetic-val", 2, "--out", out, *extra)
    error = capsys.readouterr().err
    assert stopped.value.code == 1 and words in error and error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
