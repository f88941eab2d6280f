"""Many runs: grids, tuning, budgets, time estimates, capacity plans."""
