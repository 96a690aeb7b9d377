"""The smallest pose run that tests train."""

from cycledistill_pose.recipes import PoseConfig

TINY = PoseConfig(
    model="tokenpose_nano",
    input_size=(48, 64),
    heatmap_size=(12, 16),
    dim=48,
    depth=2,
    epochs=1,
    batch_size=16,
    milestones=(),
    warmup_steps=2,
    num_workers=0,
    num_synthetic=32,
    num_synthetic_val=6,
    pictures=4,
    device="cpu",
)
