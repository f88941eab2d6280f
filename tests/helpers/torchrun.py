"""`maskbench run` as one process or as several that torchrun starts."""

import sys

# Flags of a run of 2 steps an epoch; the tests say how many epochs.
LONG = ["--strategy", "random", "--limit", "256", "--batch-size", "128", "--warmup-epochs", "0", "--probes", "knn"]
LONG += ["--img-size", "16", "--device", "cpu", "--precision", "fp32", "--set", "train.online_every=100"]
LONG += ["--set", "model.kwargs={embed_dim: 32, depth: 1, num_heads: 2}", "--lr", "1e-3"]


def torchrun_command(count: int, *arguments: str) -> list[str]:
    """`maskbench run ARGUMENTS` in `count` processes; above one, started by torchrun."""
    alone = [sys.executable, "-m", "maskbench"]
    several = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return [*(alone if count == 1 else [*several, "-m", "maskbench"]), "run", *LONG, *arguments]
