"""What a step, a strategy and a probe cost."""
