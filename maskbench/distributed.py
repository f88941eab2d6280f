"""For objectives and strategies whose loss compares the images of a batch: sums over all processes of a run.

With one process everything here is the identity, so the code that uses it is written once.
"""

from maskbench.runtime.distributed import gather, mean, rank, total, world

__all__ = ["gather", "mean", "rank", "total", "world"]
