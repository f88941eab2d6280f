"""A tiny encoder and data whose class anybody can see, for tests of probes."""

import dataclasses
from typing import Any

import torch

from maskbench.config.settings import System
from maskbench.core.grid import Grid
from maskbench.data.splits import Images, Splits, build_splits
from maskbench.models.encoder import Encoder, build_encoder
from maskbench.probe import Subject

SYSTEM = System(device="cpu", precision="fp32")
CLASSES = 3


def pictures(count: int, seed: int) -> Images:
    """16 x 16 pixels: a bright square, in the class's channel, somewhere on a noisy dark ground; its mask."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randperm(count, generator=generator) % CLASSES
    pixels = torch.randint(0, 80, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    objects = torch.zeros(count, 16, 16, dtype=torch.bool)
    corners = torch.randint(0, 8, (count, 2), generator=generator)
    for number, (top, left) in enumerate(corners.tolist()):
        objects[number, top : top + 8, left : left + 8] = True
        pixels[number, labels[number], top : top + 8, left : left + 8] = 220
    return Images(pixels, labels, torch.ones(count), objects)


def splits(train: int = 300, test: int = 150) -> Splits:
    """`pictures` as a data set."""
    classes = ("red", "green", "blue")
    return build_splits("squares", pictures(train, 1), pictures(test, 2), classes=classes, fingerprint="x")


def encoder(seed: int = 0, **kwargs: Any) -> Encoder:
    """An untrained ViT of 4 x 4 patches, 32 wide and 2 deep, which drops paths in training."""
    torch.manual_seed(seed)
    made = {"embed_dim": 32, "depth": 2, "num_heads": 2, "drop_path_rate": 0.5, **kwargs}
    return build_encoder("vit_tiny_patch16_224", Grid(4, 4, 4), 3, made, plain_attention=True)


def subject(**given: Any) -> Subject:
    """An encoder in training mode, as a probe may find it, and data."""
    return Subject(**{"encoder": encoder().train(), "splits": splits(), "system": SYSTEM, **given})


def shuffle_labels(seed: int) -> Splits:
    """The data with the labels of train, validation included, in another order."""
    data = splits()
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    return dataclasses.replace(data, train=dataclasses.replace(data.train, labels=data.train.labels[order]))
