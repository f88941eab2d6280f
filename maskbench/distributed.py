"""For objectives and strategies whose loss compares the images of a batch: reductions over all processes of a run.

With one process every function here returns its argument, so that the same code works with one process and with many.
"""

from maskbench.runtime.collectives import all_gather as gather
from maskbench.runtime.collectives import all_reduce_mean as mean
from maskbench.runtime.collectives import all_reduce_sum as total
from maskbench.runtime.collectives import rank
from maskbench.runtime.collectives import world_size as world

__all__ = ["gather", "mean", "rank", "total", "world"]
