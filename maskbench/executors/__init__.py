"""Where runs are executed: local processes, Ray, Slurm."""
