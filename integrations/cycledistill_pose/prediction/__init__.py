"""From a picture and boxes of people to keypoints in the picture."""

from cycledistill_pose.prediction._predictor import PosePredictor, Prediction

__all__ = ["PosePredictor", "Prediction"]
