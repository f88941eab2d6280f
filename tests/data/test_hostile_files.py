"""Files of a data set that are made to do harm: none starts a program, hangs, or ends in a traceback."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from maskbench import data
from maskbench.data.encoded_images import EncodedImages
from maskbench.data.tar_samples import Shards, list_images
from maskbench.errors import UsageError
from tests.helpers.image_files import picture, png, write_folders, write_tar

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 12\n%%EndComments\nshowpage\n"


@pytest.fixture(autouse=True)
def _fresh_memory() -> Iterator[None]:
    data.load_dataset.cache_clear()
    yield
    data.load_dataset.cache_clear()


def test_no_image_starts_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript in a folder, in a Parquet file and in a tar shard."""
    programs, started = tmp_path / "programs", tmp_path / "started"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {started}\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    write_folders(tmp_path / "folders", "train", 0, 6)
    write_folders(tmp_path / "folders", "test", 0, 3)
    (tmp_path / "folders" / "train" / "cat" / "9.png").write_bytes(POSTSCRIPT)
    (tmp_path / "parquet").mkdir()
    for split in ("train", "test"):
        table = pyarrow.table({"image": [png(0), png(1), POSTSCRIPT], "label": [0, 1, 1]})
        pyarrow.parquet.write_table(table, tmp_path / "parquet" / f"{split}.parquet")
        members = [("0.png", png(0)), ("0.cls", b"0"), ("1.png", POSTSCRIPT), ("1.cls", b"1")]
        write_tar(tmp_path / "shards" / f"{split}.tar", members)
    for dataset in ("folders", "parquet", "shards"):
        name = f"wds/{tmp_path / dataset}" if dataset == "shards" else str(tmp_path / dataset)
        with pytest.raises(UsageError, match="it is no image of a format that is read"):
            data.load_dataset(name, (12, 12), 3)
    assert not started.exists()
    with Image.open(io.BytesIO(POSTSCRIPT)) as image, pytest.raises(OSError):  # noqa: PT011
        image.load()
    assert started.exists(), "Pillow alone would have started it"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP", "GIF"])
def test_whatever_bytes_are_damaged_the_image_is_read_or_named(kind: str, tmp_path: Path) -> None:
    """Bytes of the header and of the content turned over at random, or cut off."""
    buffer = io.BytesIO()
    picture(1, 16, 16).save(buffer, kind)
    whole, path = buffer.getvalue(), tmp_path / "image"
    images = EncodedImages.from_files([path], ["image 0"], [0])
    generator, reasons = np.random.default_rng(0), []
    for trial in range(150):
        content = bytearray(whole)
        for position in generator.integers(0, min(len(whole), 40 if trial % 2 else len(whole)), 3):
            content[position] = generator.integers(256)
        path.write_bytes(content[: generator.integers(1, len(content))] if trial % 5 == 0 else content)
        try:
            assert images.decode(0, (8, 8, 3)).shape == (8, 8, 3)
        except UsageError as error:
            reasons.append(str(error))
    assert reasons
    for reason in reasons:
        assert reason.startswith(("cannot decode image 0: ", "image 0 has more than 8 bits")) and "\n" not in reason


def test_a_tar_member_that_says_it_ends_before_it_begins_is_read_once(tmp_path: Path) -> None:
    """Its size is negative, so that the next header would be its own, again and again."""
    shard = tmp_path / "train.tar"
    with tarfile.open(shard, "w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(3):
            member = tarfile.TarInfo(f"{number}.png")
            member.size, member.pax_headers = 4, {"size": "-1536"} if number == 1 else {}
            tar.addfile(member, io.BytesIO(b"data"))
    with pytest.raises(UsageError, match=r"train.tar( is damaged near|: )"):
        list(list_images(shard, Shards()))


@pytest.mark.parametrize("error", [EOFError(), ValueError("magic number"), AssertionError(), KeyError("data")])
def test_damaged_files_of_torchvision_are_one_line(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An EOFError would pass for Ctrl-C on the command line."""

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("timm.data.create_dataset", refuse)
    with pytest.raises(UsageError, match=r"torch/mnist in .* is damaged \(.+\); remove it, and add --download"):
        data.load_dataset("torch/mnist", (12, 12), 3, data_dir=str(tmp_path))


def test_an_image_that_became_a_pipe_is_named(tmp_path: Path) -> None:
    """As it may while images are streamed, long after they were listed."""
    os.mkfifo(tmp_path / "pipe")
    images = EncodedImages.from_files([tmp_path / "pipe"], ["image 0"], [0])
    with pytest.raises(UsageError, match="cannot read image 0: it is a pipe, not a file"):
        images.read_bytes(0)
