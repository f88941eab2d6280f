"""Where runs are carried out: local processes, Ray, Slurm."""
