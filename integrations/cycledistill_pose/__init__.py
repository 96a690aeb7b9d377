"""Human pose estimation on cycledistill: models, codecs, losses, data and metrics."""
