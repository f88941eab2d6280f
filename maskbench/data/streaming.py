"""A split whose images are read and decoded when they are needed."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maskbench.data.encoded_images import EncodedImages
from maskbench.data.image_warnings import ignore_repeated_warnings
from maskbench.data.splits import Images, Split
from maskbench.runtime.cpu import map_in_threads


@dataclass(frozen=True)
class StreamedImages(Split):
    """One split on disk. Its images are bit for bit those of `Images`. The cache stores these fields by name.

    Attributes:
        encoded: The images on disk.
        numbers: (N,) int64, on the CPU: which of `encoded` belong to the split.
        labels: (N,) int64, as in `Images`.
        stretch: (N,) float32, as in `Images`.
        shape: (3,) int64: rows, columns and channels of the canvas.
        known: (C, 256) int64, what `count_levels` returns, or None where it is not known yet.
        objects: None: files hold no object masks.
    """

    encoded: EncodedImages
    numbers: Tensor
    labels: Tensor
    stretch: Tensor
    shape: Tensor
    known: Tensor | None = None
    objects = None

    def take(self, index: Tensor) -> Images:
        """See `Split`. Threads of this process read and decode."""
        canvas, numbers = self.canvas, self.numbers[index.cpu()].tolist()
        pixels = np.empty((len(index), *canvas), np.uint8)

        def decode_image(position: int) -> None:
            pixels[position] = self.encoded.decode(numbers[position], canvas)

        with ignore_repeated_warnings():
            for _ in map_in_threads(decode_image, len(numbers)):
                pass
        return self.to_images(torch.from_numpy(pixels), index)

    def to_images(self, pixels: Tensor, index: Tensor) -> Images:
        """Put decoded pixels (B, H, W, C) uint8 of the images `index` on the split's device, with labels."""
        moved = pixels.to(self.labels.device, non_blocking=True).permute(0, 3, 1, 2)
        return Images(moved, self.labels[index], self.stretch[index])

    def subset(self, index: Tensor) -> "StreamedImages":
        """See `Split`. Nothing is read."""
        numbers = self.numbers[index.cpu()]
        return StreamedImages(self.encoded, numbers, self.labels[index], self.stretch[index], self.shape)

    def to(self, device: torch.device) -> "StreamedImages":
        """See `Split`."""
        return replace(self, labels=self.labels.to(device), stretch=self.stretch.to(device))

    def count_levels(self) -> Tensor:
        """See `Split`. Decodes every image, unless the counts are known."""
        if self.known is not None:
            return self.known
        canvas, encoded = self.canvas, self.encoded

        def count_levels_of(position: int) -> list[int]:
            pixels = encoded.decode(int(self.numbers[position]), canvas)
            return Image.fromarray(pixels.squeeze(2) if canvas[2] == 1 else pixels).histogram()

        total = np.zeros(canvas[2] * 256, np.int64)
        for counts in map_in_threads(count_levels_of, len(self)):
            total += np.array(counts)
        return torch.from_numpy(total).view(-1, 256)

    def with_level_counts(self) -> "StreamedImages":
        """The same split, which knows the result of `count_levels`."""
        return replace(self, known=self.count_levels())

    @property
    def canvas(self) -> tuple[int, int, int]:
        """Rows, columns, channels."""
        rows, cols, channels = self.shape.tolist()
        return rows, cols, channels
