"""What things cost: strategies alone, a training step with its phases, probes. On generated data."""
