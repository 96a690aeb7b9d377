"""The built-in skeletons and those read from a COCO file's category."""

from __future__ import annotations

import json
import re

import pytest

from cycledistill_pose.skeletons import COCO, CROWDPOSE, Skeleton

PUBLISHED = {
    "coco": ".26 .25 .25 .35 .35 .79 .79 .72 .72 .62 .62 1.07 1.07 .87 .87 .89 .89",
    "crowdpose": ".79 .79 .72 .72 .62 .62 1.07 1.07 .87 .87 .89 .89 .79 .79",
}


@pytest.mark.parametrize("skeleton", [COCO, CROWDPOSE], ids=lambda s: s.name)
def test_built_in_skeletons_follow_their_data_sets(skeleton: Skeleton) -> None:
    sigmas = [float(value) / 10 for value in PUBLISHED[skeleton.name].split()]
    assert skeleton.sigmas == pytest.approx(sigmas)
    assert len(skeleton.keypoint_names) == len(sigmas) == skeleton.num_keypoints
    for left, right in skeleton.flip_pairs:
        name = skeleton.keypoint_names[left]
        assert name.startswith("left_")
        assert skeleton.keypoint_names[right] == name.replace("left_", "right_")
    sided = [n for n in skeleton.keypoint_names if re.match("left_|right_", n)]
    assert 2 * len(skeleton.flip_pairs) == len(sided)
    assert [skeleton.flip_indices[i] for i in skeleton.flip_indices] == list(
        range(skeleton.num_keypoints)
    )
    legs = {i for i, n in enumerate(skeleton.keypoint_names) if re.search("hip|knee|ankle", n)}
    assert set(skeleton.lower_body) == legs
    assert set(skeleton.upper_body) | legs == set(range(skeleton.num_keypoints))
    reached = {i for limb in skeleton.limbs for i in limb}
    assert reached == set(range(skeleton.num_keypoints))


def test_real_categories_give_the_built_in_skeletons(shared_data) -> None:
    files = {
        "tiny_coco/annotations/person_keypoints_train2017.json": COCO,
        "samples/crowdpose/test_crowdpose.json": CROWDPOSE,  # its limbs index 17 keypoints of 14
        "lspet/val.json": CROWDPOSE,
    }
    for name, skeleton in files.items():
        folder, rest = name.split("/", 1)
        category = json.loads((shared_data(folder) / rest).read_text())["categories"][0]
        assert Skeleton.from_coco_category(category) is skeleton, name
    category = json.loads((shared_data("samples") / "coco/test_coco.json").read_text())
    limbs = {tuple(sorted((a - 1, b - 1))) for a, b in category["categories"][0]["skeleton"]}
    assert {tuple(sorted(limb)) for limb in COCO.limbs} == limbs


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["nose", "left_eye", "right_eye"], ((1, 2),)),
        (["L_paw", "R_paw", "tail", "paw"], ((0, 1),)),
        (["wingLeft", "wingRight", "beak"], ((0, 1),)),
        (["Right ear", "Left ear"], ((1, 0),)),
        (["left_fin"], ()),
        (["bright", "cleft", "leftover"], ()),
        (["LEye", "REye"], ((0, 1),)),
        (["LWrist2", "RWrist2"], ((0, 1),)),
        (["left1", "right1", "left2", "right2"], ((0, 1), (2, 3))),
        (["lefteye", "righteye"], ((0, 1),)),
        (["eyeLEFT", "eyeRIGHT"], ((0, 1),)),
        (["leye", "reye", "nose"], ((0, 1),)),
        (["Rshoulder", "Lshoulder"], ((1, 0),)),
        (["lears", "rears"], ((0, 1),)),
        (["left_rear_paw", "right_rear_paw"], ((0, 1),)),  # a rear is no right ear here
        (["bright_left", "bright_right"], ((0, 1),)),
    ],
)
def test_sides_are_found_by_name(names: list[str], pairs: tuple[tuple[int, int], ...]) -> None:
    skeleton = Skeleton.from_coco_category({"name": "animal", "keypoints": names})
    assert skeleton.flip_pairs == pairs


@pytest.mark.parametrize(
    "names",
    [
        ["1", "2"],
        ["lamp", "ramp", "lake", "rake"],
        ["light", "right"],
        ["L1", "R1"],  # the first lumbar vertebra is no left one
        ["bright", "b_left"],
        ["l_eye", "right_eye"],
        ["left_eye", "left eye", "right_eye"],  # two could be its partner
        ["глаз_l", "лапа_r"],
        ["левый глаз", "правая лапа"],
        ["左眼", "右耳"],
        ["l眼", "r耳"],
        ["é_l", "è_r"],
        ["عين_l", "أذن_r"],
    ],
)
def test_no_pair_is_guessed(names: list[str]) -> None:
    assert Skeleton.from_coco_category({"name": "x", "keypoints": names}).flip_pairs == ()


def test_names_in_other_scripts_pair_by_the_same_rule() -> None:
    names = ["глаз_l", "лапа_l", "лапа_r", "глаз_r", "e\u0301_left", "\u00e9_right"]
    pairs = Skeleton.from_coco_category({"name": "x", "keypoints": names}).flip_pairs
    assert pairs == ((0, 3), (1, 2), (4, 5))


def test_pairs_are_given_by_name_or_number() -> None:
    names = ["a", "left_b", "right_b", "c"]
    for given, pairs in (
        ([["a", "c"]], ((0, 3),)),
        ([[1, 4], [2, 3]], ((0, 3), (1, 2))),
        ([], ()),
    ):
        category = {"name": "x", "keypoints": names, "flip_pairs": given}
        assert Skeleton.from_coco_category(category).flip_pairs == pairs
    for given, words in (
        ([["a", "d"]], "name the keypoint 'd', expected one of a, left_b"),
        ([["a"]], "pairs of keypoint names"),
        ([[1, "c"]], r"its flip_pairs: expected pairs of numbers from 1, got \[\[1, 'c'\]\]"),
        ([[1, 2, 3]], "its flip_pairs: expected pairs of numbers"),
        ([[0, 1]], r"flip_pairs joins \[\(0, 1\)\].*count from 1 to 4"),
    ):
        category = {"name": "x", "keypoints": names, "flip_pairs": given}
        with pytest.raises(ValueError, match=words):
            Skeleton.from_coco_category(category)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            {"skeleton": [["a", "b"]]},
            r"its skeleton: expected pairs of numbers from 1, got \[\[",
        ),
        ({"skeleton": [1, 2]}, "its skeleton: expected pairs of numbers from 1"),
    ],
)
def test_what_is_no_skeleton_is_named(entry: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=f"category 'x': {words}"):
        Skeleton.from_coco_category({"name": "x", "keypoints": ["a", "b"], **entry})


def test_limbs_are_those_of_the_category() -> None:
    category = {"name": "x", "keypoints": ["a", "b", "c"], "skeleton": [[1, 2], [3, 2]]}
    skeleton = Skeleton.from_coco_category(category)
    assert skeleton.limbs == ((0, 1), (2, 1)) and skeleton.lower_body == ()


def test_the_category_is_kept_and_does_not_count_in_comparisons() -> None:
    person = {"id": 7, "name": "human", "keypoints": list(COCO.keypoint_names)}
    skeleton = Skeleton.from_coco_category(person)
    assert (skeleton.category_id, skeleton.category) == (7, "human")
    assert skeleton == COCO and (COCO.category_id, COCO.category) == (1, "person")


def test_scales_come_from_the_best_source() -> None:
    category = {"name": "x", "keypoints": ["nose", "head", "widget"]}
    assert Skeleton.from_coco_category(category).sigmas == (0.026, 0.079, 0.05)
    assert Skeleton.from_coco_category(category, default_sigma=0.1).sigmas[2] == 0.1
    own = category | {"sigmas": [0.1, 0.2, 0.3]}
    assert Skeleton.from_coco_category(own).sigmas == (0.1, 0.2, 0.3)
    assert Skeleton.from_coco_category(own, sigmas=[1, 2, 3]).sigmas == (1.0, 2.0, 3.0)
    doubled = [2 * s for s in COCO.sigmas]
    coco = {"name": "person", "keypoints": list(COCO.keypoint_names), "sigmas": doubled}
    assert Skeleton.from_coco_category(coco).sigmas == tuple(doubled)
    assert Skeleton.from_coco_category(coco).limbs == COCO.limbs


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"category 'bird' \(id 4\) has no keypoint names"):
        Skeleton.from_coco_category({"name": "bird", "id": 4})
    with pytest.raises(ValueError, match=r"joins \[\(0, 1\)\].*count from 1 to 2"):
        Skeleton.from_coco_category({"name": "y", "keypoints": ["a", "b"], "skeleton": [[0, 1]]})
    with pytest.raises(ValueError, match="3 sigmas for 2 keypoint names"):
        Skeleton.from_coco_category({"name": "y", "keypoints": ["a", "b"], "sigmas": [1, 1, 1]})
    good = {
        "name": "z",
        "keypoint_names": ("a", "b", "c"),
        "flip_pairs": (),
        "sigmas": (0.1, 0.1, 0.1),
        "limbs": (),
        "upper_body": (),
    }
    Skeleton(**good)
    for change, message in [
        ({"keypoint_names": ("a", "a", "b")}, r"repeat \['a'\]"),
        ({"flip_pairs": ((0, 1), (1, 2))}, "two flip_pairs"),
        ({"flip_pairs": ((0, 3),)}, r"flip_pairs names keypoints \[3\], but there are 3"),
        ({"limbs": ((-1, 0),)}, r"limbs names keypoints \[-1\]"),
        ({"sigmas": (0.1, 0.0, 0.1)}, "above 0"),
        ({"sigmas": (0.1, float("inf"), 0.1)}, "finite"),
        ({"keypoint_names": (), "sigmas": ()}, "empty"),
    ]:
        with pytest.raises(ValueError, match=message):
            Skeleton(**(good | change))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sigmas": "wide"}, "category 'bird': its sigmas: expected 3 numbers, got 'wide'"),
        ({"sigmas": 0.05}, "category 'bird': its sigmas: expected 3 numbers, got 0.05"),
        ({"flip_pairs": 5}, "category 'bird': its flip_pairs: expected pairs .*, got 5"),
        ({"flip_pairs": [2, 3]}, r"category 'bird': its flip_pairs: .*, got \[2, 3\]"),
    ],
)
def test_what_is_wrong_in_a_category_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        Skeleton.from_coco_category({"name": "bird", "keypoints": ["a", "b", "c"], **changes})
