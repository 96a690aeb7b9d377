"""The common part of COCO's and CrowdPose's average precision."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from pycocotools.coco import COCO as CocoFile
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from cycledistill._checks import check_choice
from cycledistill.saving._files import replacing
from cycledistill_pose._checks import check_shape
from cycledistill_pose.annotations import KeypointFile
from cycledistill_pose.annotations._file import Annotations
from cycledistill_pose.metrics._ground_truth import ground_truth
from cycledistill_pose.metrics._oks import ArrayLike
from cycledistill_pose.metrics._results import NMS, coco_results, shortened
from cycledistill_pose.skeletons import Skeleton

# The statistics of pycocotools, in its order.
_FIGURES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")


class KeypointAP(Metric):
    """Collects people and evaluates them with pycocotools, as COCO results.

    State: two lists of tensors that are joined over processes, `people` `[N, 3 K + 5]` and
    `identities` `[N, 2]`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    people: list[Tensor]
    identities: list[Tensor]

    default_skeleton: ClassVar[Skeleton]  # its sigmas are used if the file has none
    annotated_areas: ClassVar[bool]  # or 0.53 of the boxes for all people
    splits_sizes: ClassVar[bool]  # whether there are figures of medium and large people

    def __init__(
        self,
        annotations: Annotations,
        nms: NMS | None = "oks",
        nms_threshold: float = 0.9,
        keypoint_score_threshold: float = 0.2,
        sigmas: Sequence[float] | None = None,
        rescore: bool | None = None,
        category: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("nms", nms, *get_args(NMS), None)
        file = KeypointFile.read(annotations, category)
        self.sigmas = _find_sigmas(sigmas, file, self.default_skeleton)
        self.ground_truth = ground_truth(file, len(self.sigmas), self.annotated_areas)
        self._scoring: dict[str, Any] = {
            "nms": nms,
            "nms_threshold": float(nms_threshold),
            "keypoint_score_threshold": float(keypoint_score_threshold),
            "rescore": nms is not None if rescore is None else rescore,
            "category_id": file.category.id,
        }
        self.image_ids = frozenset(self.ground_truth.getImgIds())
        self.add_state("people", default=[], dist_reduce_fx="cat")
        self.add_state("identities", default=[], dist_reduce_fx="cat")

    @property
    def num_keypoints(self) -> int:
        """The number of keypoints K."""
        return len(self.sigmas)

    def update(
        self,
        image_ids: ArrayLike,
        keypoints: ArrayLike,
        keypoint_scores: ArrayLike,
        boxes_xyxy: ArrayLike,
        box_scores: ArrayLike,
        ids: ArrayLike | None = None,
    ) -> None:
        """Add predicted people; tensors, arrays or lists.

        Args:
            image_ids: `[B]` integers that the annotation file has.
            keypoints: `[B, K, 2]` (x, y) in px of the image.
            keypoint_scores: `[B, K]`.
            boxes_xyxy: `[B, 4]` the people's boxes (x1, y1, x2, y2) in px of the image.
            box_scores: `[B]`; 1 for annotated boxes.
            ids: `[B]` integers that identify people, such as their positions in the data set or
                annotation ids; negative means unknown. A person added twice counts once; without
                ids, only if all numbers are the same.

        Raises:
            ValueError: A shape is wrong or an image id is unknown.
        """
        dtype = self._state_dtype
        images = _integers("image_ids", image_ids).to(self.device)
        sizes = check_shape("image_ids", images, "B") | {"K": self.num_keypoints}

        def tensor(name: str, values: ArrayLike, axes: str, kind: torch.dtype = dtype) -> Tensor:
            found = torch.as_tensor(values).detach().to(self.device, kind)
            if not len(images) and not found.numel():  # nobody, in a list without further axes
                found = found.reshape(
                    [sizes[axis] if axis in sizes else int(axis) for axis in axes.split()]
                )
            check_shape(name, found, axes, **sizes)
            return found

        points = tensor("keypoints", keypoints, "B K 2")
        scores = tensor("keypoint_scores", keypoint_scores, "B K")
        boxes = tensor("boxes_xyxy", boxes_xyxy, "B 4")
        box_score = tensor("box_scores", box_scores, "B")
        people_ids = torch.full_like(images, -1)
        if ids is not None:
            people_ids = tensor("ids", _integers("ids", ids), "B", torch.int64)
        unknown = sorted(set(images.tolist()) - self.image_ids)
        if unknown:
            raise ValueError(
                f"image_ids {shortened(unknown)} are not among the {len(self.image_ids)} images of "
                "the annotations"
            )
        self.people.append(torch.cat((points.flatten(1), scores, boxes, box_score[:, None]), 1))
        self.identities.append(torch.stack((images, people_ids), dim=1))

    def results(self) -> list[dict[str, Any]]:
        """People of all processes, scored and without duplicates, in COCO's results format.

        In a distributed run every process must call it.

        Returns:
            Dicts with `image_id`, `category_id`, `keypoints` (x, y, score for each) and `score`.

        Raises:
            ValueError: A keypoint, score or box is not finite.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return self._results()

    def save_results(self, path: str | Path) -> None:
        """Write the results as the JSON file that COCO's evaluation server takes.

        In a distributed run every process must call it; the first one writes. The file appears
        whole or not at all.
        """
        results = self.results()
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not distributed or torch.distributed.get_rank() == 0:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with replacing(Path(path)) as file:
                json.dump(results, file)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Join the states of all processes, including those without people."""
        self._fill_empty()
        super().sync(*args, **kwargs)

    def _results(self) -> list[dict[str, Any]]:
        """The results of the people in the current state."""
        self._fill_empty()
        return coco_results(
            dim_zero_cat(self.identities).cpu().numpy(),
            dim_zero_cat(self.people).cpu().double().numpy(),
            sigmas=self.sigmas,
            **self._scoring,
        )

    @property
    def _state_dtype(self) -> torch.dtype:
        """That of the state: Apple's GPUs have no float64."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    def _fill_empty(self) -> None:
        """Give empty lists a tensor of the right type and shape, for gathering and joining."""
        if isinstance(self.people, list) and not self.people:
            width = 3 * self.num_keypoints + 5
            self.people.append(torch.zeros(0, width, dtype=self._state_dtype, device=self.device))
            self.identities.append(torch.zeros(0, 2, dtype=torch.int64, device=self.device))

    def _figures(
        self, results: list[dict[str, Any]], image_ids: Sequence[int] | None = None
    ) -> dict[str, float]:
        """The statistics of pycocotools, from 0 to 1, or -1 if there are no such people."""
        evaluation = self._evaluate(results, self.splits_sizes, image_ids)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
            evaluation.summarize()
        figures = dict(zip(_FIGURES, evaluation.stats.tolist(), strict=True))
        sized = self.splits_sizes
        return {name: v for name, v in figures.items() if sized or name[-1] not in "ML"}

    def _evaluate(
        self,
        results: list[dict[str, Any]],
        by_size: bool = False,
        image_ids: Sequence[int] | None = None,
    ) -> COCOeval:
        """The people matched by pycocotools, in all images or some of them."""
        with contextlib.redirect_stdout(io.StringIO()):
            if results:
                predictions = self.ground_truth.loadRes([dict(result) for result in results])
            else:
                predictions = CocoFile()
                predictions.dataset = {**self.ground_truth.dataset, "annotations": []}
                predictions.createIndex()
            evaluation = COCOeval(self.ground_truth, predictions, "keypoints")
            params = evaluation.params
            params.kpt_oks_sigmas = np.array(self.sigmas)
            if not by_size:
                params.areaRng, params.areaRngLbl = params.areaRng[:1], params.areaRngLbl[:1]
            if image_ids is not None:
                params.imgIds = sorted(image_ids)
            evaluation.evaluate()
        return evaluation


def _integers(name: str, values: ArrayLike) -> Tensor:
    """As int64, which would cut fractions off without a word."""
    found = torch.as_tensor(values).detach()
    if found.is_floating_point() and not torch.equal(found, found.round()):
        raise ValueError(f"{name}: expected integers, got {shortened(found.flatten().tolist())}")
    return found.to(torch.int64)


def _find_sigmas(
    given: Sequence[float] | None, file: KeypointFile, default: Skeleton
) -> tuple[float, ...]:
    """K sigmas: given, the category's, the metric's own, or by the keypoints' names."""
    category = file.category
    named = category.skeleton
    count = named.num_keypoints if named else file.people.keypoints.shape[1]
    count = count or default.num_keypoints
    sigmas = given if given is not None else category.sigmas
    if sigmas is None:
        if count == default.num_keypoints:
            sigmas = default.sigmas
        elif named:
            sigmas = named.sigmas
        else:
            raise ValueError(
                f"sigmas must be given: the annotations are of {count} unnamed keypoints, "
                f"{default.name}'s sigmas are {default.num_keypoints}"
            )
    sigmas = tuple(float(sigma) for sigma in sigmas)
    if len(sigmas) != count or not min(sigmas) > 0:
        raise ValueError(
            f"sigmas: expected {count} positive numbers, one for each keypoint of the annotations, "
            f"got {len(sigmas)}: {sigmas}"
        )
    return sigmas
