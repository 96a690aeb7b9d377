"""CrowdPose's average precision of keypoints."""

from __future__ import annotations

from cycledistill_pose.metrics._keypoint_ap import KeypointAP
from cycledistill_pose.skeletons import CROWDPOSE

# Crowd indices from the first up to, not with, the second.
_CROWDS = {"easy": (0.0, 0.2), "medium": (0.2, 0.8), "hard": (0.8, float("inf"))}


class CrowdPoseAP(KeypointAP):
    """Average precision and recall of keypoints, as CrowdPose's own tool measures them.

    >>> person = {
    ...     "id": 1,
    ...     "image_id": 7,
    ...     "category_id": 1,
    ...     "bbox": [10, 10, 100, 100],
    ...     "iscrowd": 0,
    ...     "keypoints": [50.0, 60.0, 2] * 14,
    ... }
    >>> annotations = {
    ...     "images": [{"id": 7, "crowdIndex": 0.5}],
    ...     "annotations": [person],
    ...     "categories": [{"id": 1, "name": "person"}],
    ... }
    >>> metric = CrowdPoseAP(annotations)
    >>> metric.update([7], [[[52.0, 60.0]] * 14], [[0.9] * 14], [[10.0, 10.0, 110.0, 110.0]], [1.0])
    >>> {name: round(value, 2) for name, value in metric.compute().items()}
    {'AP': 1.0, 'AP50': 1.0, 'AP75': 1.0, 'AR': 1.0, 'AR50': 1.0, 'AR75': 1.0,
     'AP_easy': -1.0, 'AP_medium': 1.0, 'AP_hard': -1.0}

    It differs from `CocoKeypointAP` in three things: a person's area is always 0.53 of the
    annotated box, people are not split by size, and the precision is also computed over
    the easy (`crowdIndex` below 0.2), medium (below 0.8) and hard (the other) images alone, -1
    where the file has none of a kind. The arguments are the same, except that `sigmas` are by
    default CrowdPose's where K is 14. The reference toolbox evaluates CrowdPose with `nms=None`.
    CrowdPose's tool rounds the last three figures to four decimals; here they are not rounded.

    Li et al., "CrowdPose: Efficient Crowded Scenes Pose Estimation and A New Benchmark", CVPR
    2019.

    Raises:
        FileNotFoundError: There is no annotation file.
        TypeError: Annotations are of a wrong type.
        ValueError: An argument or the file is wrong.
    """

    default_skeleton = CROWDPOSE
    annotated_areas = False
    splits_sizes = False

    def compute(self) -> dict[str, float]:
        """AP, AP50, AP75, AR, AR50, AR75, AP_easy, AP_medium and AP_hard, from 0 to 1 or -1.

        Raises:
            ValueError: A keypoint, score or box is not finite.
        """
        results = self._results()
        figures = self._figures(results)
        for crowd, (low, high) in _CROWDS.items():
            images = [
                image["id"]
                for image in self.ground_truth.dataset["images"]
                if low <= image["crowdIndex"] < high
            ]
            figures[f"AP_{crowd}"] = self._figures(results, images)["AP"] if images else -1.0
        return figures
