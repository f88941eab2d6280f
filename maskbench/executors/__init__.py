"""Many runs at once, on this machine, on a Ray cluster or through Slurm; what is common to them is in `driver`."""
