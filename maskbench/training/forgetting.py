"""A sign that training worsens the weights that it started from."""

import math
from collections.abc import Mapping, Sequence

READING = "online/knn/top1/mean"
STANDARD_ERRORS = 2.0  # by which a reading must be lower, so that the chance of the images does not look like a loss


def sign_of_forgetting(curve: Sequence[Mapping[str, float]], images: int) -> list[str]:
    """Whether the last online reading is below that of the weights as they came, in a line; else nothing.

    Args:
        curve: The learning curve. Its first row is of epoch 0 where training started from given weights.
        images: Number of images that are read.
    """
    if not curve or curve[0]["epoch"] != 0 or READING not in curve[0] or READING not in curve[-1]:
        return []
    start, now = curve[0][READING], curve[-1][READING]
    error = math.sqrt((start * (1 - start) + now * (1 - now)) / images)
    if start - now <= STANDARD_ERRORS * error:
        return []
    return [
        f"online k-NN is below the {100 * start:.1f} % of the weights as they came: training makes them worse; lower "
        f"the learning rate, or train longer"
    ]
