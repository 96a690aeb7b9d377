"""Images and boxes to keypoints."""

from cycledistill_pose.prediction._cycles import predict_cycles
from cycledistill_pose.prediction._detector import PersonDetector
from cycledistill_pose.prediction._predictor import PosePredictor, Prediction

__all__ = ["PersonDetector", "PosePredictor", "Prediction", "predict_cycles"]
