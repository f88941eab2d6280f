"""A split that is read and decoded as its images are asked for."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maskbench.data.encoded_images import Encoded
from maskbench.data.splits import Images, Split
from maskbench.runtime.cpu import each


@dataclass(frozen=True)
class Streamed(Split):
    """One split on disk; the same images, to the bit, as `Images` of the same shape.

    numbers: (N,) int64, which of `encoded`, on the CPU. labels: (N,) int64 and stretch: (N,) float32 as in `Images`.
    shape: (3,) int64, rows, columns and channels of the canvas. known: `levels` of all, None where they are not known.
    """

    encoded: Encoded
    numbers: Tensor
    labels: Tensor
    stretch: Tensor
    shape: Tensor
    known: Tensor | None = None
    objects = None

    def take(self, index: Tensor) -> Images:
        """The images of these numbers, read and decoded by threads of this process."""
        canvas, numbers = self.canvas, self.numbers[index.cpu()].tolist()
        pixels = np.empty((len(index), *canvas), np.uint8)

        def fill(place: int) -> None:
            pixels[place] = self.encoded.pixels(numbers[place], canvas)

        for _ in each(fill, len(numbers)):
            pass
        return self.given(torch.from_numpy(pixels), index)

    def given(self, pixels: Tensor, index: Tensor) -> Images:
        """What `take` returns, of the pixels (B, H, W, C) uint8 of the images `index`."""
        moved = pixels.to(self.labels.device, non_blocking=True).permute(0, 3, 1, 2)
        return Images(moved, self.labels[index], self.stretch[index])

    def part(self, index: Tensor) -> "Streamed":
        """Nothing is read."""
        numbers = self.numbers[index.cpu()]
        return Streamed(self.encoded, numbers, self.labels[index], self.stretch[index], self.shape)

    def to(self, device: torch.device) -> "Streamed":
        """See `Split`."""
        return replace(self, labels=self.labels.to(device), stretch=self.stretch.to(device))

    def levels(self) -> Tensor:
        """See `Split`. Where they are not known, every image is decoded."""
        if self.known is not None:
            return self.known
        canvas, encoded = self.canvas, self.encoded

        def levels(place: int) -> list[int]:
            pixels = encoded.pixels(int(self.numbers[place]), canvas)
            return Image.fromarray(pixels.squeeze(2) if canvas[2] == 1 else pixels).histogram()

        total = np.zeros(canvas[2] * 256, np.int64)
        for found in each(levels, len(self)):
            total += np.array(found)
        return torch.from_numpy(total).view(-1, 256)

    def with_levels(self) -> "Streamed":
        """The same split, whose levels are known."""
        return replace(self, known=self.levels())

    @property
    def canvas(self) -> tuple[int, int, int]:
        """Rows, columns, channels."""
        rows, cols, channels = self.shape.tolist()
        return rows, cols, channels
