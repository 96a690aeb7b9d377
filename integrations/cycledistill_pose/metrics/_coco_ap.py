"""COCO's average precision of keypoints."""

from __future__ import annotations

from cycledistill_pose.metrics._keypoint_ap import KeypointAP
from cycledistill_pose.skeletons import COCO


class CocoKeypointAP(KeypointAP):
    """Average precision and recall of keypoints, as COCO's own tool measures them.

    >>> import torch
    >>> person = {
    ...     "id": 1,
    ...     "image_id": 7,
    ...     "category_id": 1,
    ...     "bbox": [10, 10, 100, 100],
    ...     "area": 6000.0,
    ...     "iscrowd": 0,
    ...     "keypoints": [50.0, 60.0, 2] * 17,
    ... }
    >>> annotations = {
    ...     "images": [{"id": 7}],
    ...     "annotations": [person],
    ...     "categories": [{"id": 1, "name": "person"}],
    ... }
    >>> metric = CocoKeypointAP(annotations)
    >>> metric.update(
    ...     image_ids=torch.tensor([7]),
    ...     keypoints=torch.tensor([[[53.5, 60.0]]]).expand(1, 17, 2),
    ...     keypoint_scores=torch.full((1, 17), 0.9),
    ...     boxes_xyxy=torch.tensor([[10.0, 10.0, 110.0, 110.0]]),
    ...     box_scores=torch.ones(1),
    ... )
    >>> {name: round(value, 2) for name, value in metric.compute().items()}
    {'AP': 0.8, 'AP50': 1.0, 'AP75': 1.0, 'APM': 0.8, 'APL': -1.0, 'AR': 0.8, 'AR50': 1.0,
     'AR75': 1.0, 'ARM': 0.8, 'ARL': -1.0}

    Each person is scored by the box score times the mean of the keypoint scores above
    `keypoint_score_threshold`. Of duplicates in an image only the best stays (`oks_nms`, with areas
    of 1.25 w times 1.25 h of the boxes). Then pycocotools runs over *all* images of the
    annotations, including those without predictions. -1 means that there are no people of this
    size.

    The top-down toolboxes use the area of the crop, that is, of the box after its shorter side has
    grown to the input's shape. To reproduce their NMS exactly, pass such boxes; nothing else
    depends on them.

    In a distributed run, every process updates with its share and `compute` joins them; a person
    seen by several processes counts once.

    Args:
        annotations: The path of a COCO keypoint file, its contents, a `KeypointFile`, a
            pycocotools `COCO`, or a list of these. A person without `area` counts with 0.53 of its
            box, and one without a box with 0.53 of the box around its keypoints.
        nms: "oks" drops people too similar to a better one, "soft_oks" keeps the twenty best of
            an order in which similarity costs score, None keeps all *and scores them by their
            boxes alone*.
        nms_threshold: Similarity above which the weaker of two people is dropped.
        keypoint_score_threshold: Keypoints of this score or less do not count in a person's.
        sigmas: Fall-off constants of the K keypoints, already divided by 10. None: the category's
            own `sigmas`; otherwise COCO's where K is 17; otherwise those of the keypoints of the
            same names in COCO and CrowdPose, and 0.05 for others.
        rescore: Whether keypoint scores count in a person's score. None: unless `nms` is None.
        category: Name of the category, if several have keypoints.
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        FileNotFoundError: There is no annotation file.
        TypeError: Annotations are of a wrong type.
        ValueError: An argument or the file is wrong.
    """

    default_skeleton = COCO
    annotated_areas = True
    splits_sizes = True

    def compute(self) -> dict[str, float]:
        """AP, AP50, AP75, APM, APL, AR, AR50, AR75, ARM and ARL, from 0 to 1 or -1.

        Raises:
            ValueError: A keypoint, score or box is not finite.
        """
        return self._figures(self._results())
