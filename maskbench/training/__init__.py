"""One training: the loop, views of a batch, schedules, micro-batches, collapse, mask statistics, FLOPs."""
