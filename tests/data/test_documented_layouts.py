"""Layouts of docs/data.md: each row of the table is a test."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.documented_forms import (
    IN_ORDER,
    LABELS,
    Builder,
    Form,
    check_rows,
    documented_rows,
    folders,
    form,
    rows,
    write,
    write_images,
)
from tests.helpers.image_files import picture, png, write_parquet, write_tar

LAYOUTS: dict[str, Builder] = {}


@form(LAYOUTS, "`train/<class>/<image>`, `test/<class>/<image>`")
def _plain(root: Path) -> Iterator[Form]:
    yield Form(folders(root), test=[0, 1, 2], pixels=np.asarray(picture(1)))


@form(LAYOUTS, "`train`, `val` and `test` in class folders")
def _three(root: Path) -> Iterator[Form]:
    yield Form(folders(root, "val"), test=[0, 1, 2])


@form(LAYOUTS, "`train` and `val`, no `test`: `val` is the test set")
def _val(root: Path) -> Iterator[Form]:
    folders(root)
    (root / "test").rename(root / "val")
    yield Form(root, test=[0, 1, 2])


@form(LAYOUTS, "images alone, or `train/<image>`: no labels")
def _alone(root: Path) -> Iterator[Form]:
    yield Form(write_images(root / "a", ["0.png", "1.png", "2.png"]), None, pixels=np.asarray(picture(2)))
    yield Form(write_images(root / "b", ["train/0.png", "train/1.png", "train/2.png"]), None)


@form(LAYOUTS, "`d0/<image>`, `d1/<image>` without `train/`: no labels")
def _no_train_folder(root: Path) -> Iterator[Form]:
    yield Form(write_images(root, ["d0/0.png", "d1/1.png"]), None)


@form(LAYOUTS, "class folders, splits or files that are links")
def _links(root: Path) -> Iterator[Form]:
    for linked in ("train", "train/dog", "train/dog/0001.png"):
        here, there = folders(root / linked.replace("/", "-")), root / "there" / linked
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(here / linked, f"{there}-moved")
        (here / linked).symlink_to(f"{there}-moved")
        yield Form(here, test=[0, 1, 2], pixels=np.asarray(picture(1)))


@form(LAYOUTS, "Parquet: `train*.parquet` and `test*.parquet`, also several files of a split")
def _parquet(root: Path) -> Iterator[Form]:
    write_parquet(root / "data" / "train-1-of-2.parquet", 0, 3)
    write_parquet(root / "data" / "train-2-of-2.parquet", 3, 3)
    write_parquet(root / "data" / "test.parquet", 51, 3)
    yield Form(root, IN_ORDER, [0, 1, 2], np.asarray(picture(2)))


@form(LAYOUTS, "Parquet without a column of labels: no labels")
def _parquet_unlabelled(root: Path) -> Iterator[Form]:
    write_parquet(root / "train.parquet", 0, 6, label="target")
    yield Form(root, None)


@form(LAYOUTS, "Parquet with `--label-column target`")
def _parquet_column(root: Path) -> Iterator[Form]:
    yield Form(rows(root, label="target"), IN_ORDER, options={"labels": "target"})


@form(LAYOUTS, "hidden files and folders")
def _hidden(root: Path) -> Iterator[Form]:
    for name in ("._0.png", "train/.ipynb_checkpoints/0.png", "train/cat/__MACOSX/0.png", "train/cat/@eaDir/0.png"):
        here = folders(root / name.replace("/", "-").strip("."))
        write(here / name, b"Mac OS X")
        yield Form(here)


@form(LAYOUTS, "images beside `train` and `test`")
def _beside(root: Path) -> Iterator[Form]:
    yield Form(write_images(folders(root), ["extra/0.png"]))


@form(LAYOUTS, "images of `train` beside its class folders")
def _loose(root: Path) -> Iterator[Form]:
    yield Form(write_images(folders(root), ["train/0.png"]))


@form(LAYOUTS, "images of `test` in no class folders")
def _test_without_classes(root: Path) -> Iterator[Form]:
    shutil.rmtree(folders(root, "val") / "test")
    yield Form(write_images(root, ["test/0.png", "test/1.png"]), test=[0, 1, 2])


@form(LAYOUTS, "`train/<image>` beside a `test` without classes")
def _both_unlabelled(root: Path) -> Iterator[Form]:
    yield Form(write_images(root, ["train/0.png", "train/1.png", "test/2.png"]), None)


@form(LAYOUTS, "a class folder without images")
def _empty_class(root: Path) -> Iterator[Form]:
    (folders(root) / "train" / "notes").mkdir()
    yield Form(root, test=[0, 1, 2])


@form(LAYOUTS, "a pipe or a device, or a link to one")
def _pipe(root: Path) -> Iterator[Form]:
    pipe = folders(root / "pipe") / "train" / "cat" / "9.png"
    os.mkfifo(pipe)
    yield Form(root / "pipe")
    (folders(root / "device") / "train" / "cat" / "9.png").symlink_to("/dev/zero")
    yield Form(root / "device")
    write_tar(root / "shards" / "train.tar", [("0.png", png(0))])
    os.mkfifo(root / "shards" / "classnames.txt")
    yield Form(f"wds/{root / 'shards'}")
    os.mkfifo(root / "shards" / "test.tar")
    yield Form(f"wds/{root / 'shards'}")


@form(LAYOUTS, "more than 100 folders within each other")
def _deep(root: Path) -> Iterator[Form]:
    root.joinpath(*"x" * 102).mkdir(parents=True)
    yield Form(folders(root))


@form(LAYOUTS, "classes `Cat` and `cat`")
def _case(root: Path) -> Iterator[Form]:
    yield Form(write_images(folders(root), ["train/Cat/0.png"]), [0, *(label + 1 for label in LABELS)])


@form(LAYOUTS, "a Parquet file of no split")
def _no_split(root: Path) -> Iterator[Form]:
    write_parquet(rows(root) / "extra.parquet", 0, 6)
    yield Form(root, IN_ORDER)


@form(LAYOUTS, "images beside Parquet files")
def _logo(root: Path) -> Iterator[Form]:
    yield Form(write_images(rows(root), ["logo.png"]), IN_ORDER)


@form(LAYOUTS, "`train/` and `train_masks/`")
def _masks(root: Path) -> Iterator[Form]:
    yield Form(folders(root, "train_masks"))


@form(LAYOUTS, "Parquet in `160px/` and `320px/`")
def _configurations(root: Path) -> Iterator[Form]:
    for name in ("160px", "320px"):
        write_parquet(root / name / "train.parquet", 0, 6)
    yield Form(root)


@form(LAYOUTS, "one folder under two names, by a link")
def _two_names(root: Path) -> Iterator[Form]:
    shutil.rmtree(folders(root) / "test")
    (root / "test").symlink_to("train")
    yield Form(root)


@form(LAYOUTS, "a link to nothing")
def _to_nothing(root: Path) -> Iterator[Form]:
    (folders(root / "a") / "train" / "fox").symlink_to("gone")
    yield Form(root / "a")
    (folders(root / "b") / "train" / "cat" / "9.png").symlink_to("gone")
    yield Form(root / "b")


@form(LAYOUTS, "no `test` and no `val`")
def _no_test(root: Path) -> Iterator[Form]:
    shutil.rmtree(folders(root / "a") / "test")
    yield Form(root / "a")
    (rows(root / "b") / "test.parquet").unlink()
    yield Form(root / "b")


@form(LAYOUTS, "no `train`")
def _no_train(root: Path) -> Iterator[Form]:
    shutil.rmtree(folders(root / "a") / "train")
    yield Form(root / "a")
    (rows(root / "b") / "train.parquet").unlink()
    yield Form(root / "b")


@form(LAYOUTS, "a split without images or rows")
def _empty(root: Path) -> Iterator[Form]:
    for split in ("train", "test"):
        for file in (folders(root / split) / split).rglob("*.png"):
            file.unlink()
        yield Form(root / split)


@form(LAYOUTS, "one class only")
def _one_class(root: Path) -> Iterator[Form]:
    yield Form(write_images(root, ["train/cat/0.png", "test/cat/1.png"]))


@form(LAYOUTS, "a test class without a training image")
def _fox(root: Path) -> Iterator[Form]:
    yield Form(write_images(folders(root), ["test/fox/0.png"]))


@form(LAYOUTS, "classes in `test`, none in `train`")
def _train_without_classes(root: Path) -> Iterator[Form]:
    shutil.rmtree(folders(root) / "train")
    yield Form(write_images(root, ["train/0.png"]))


@form(LAYOUTS, "`--label-column` for folders of images")
def _column_of_folders(root: Path) -> Iterator[Form]:
    yield Form(folders(root), options={"labels": "target"})


@form(LAYOUTS, "one Parquet file")
def _one_parquet_file(root: Path) -> Iterator[Form]:
    yield Form(rows(root) / "train.parquet")


@form(LAYOUTS, "one archive (`.zip`, `.tar.gz`)")
def _archives(root: Path) -> Iterator[Form]:
    for name in ("a.zip", "a.tar.gz"):
        write(root / name, b"")
        yield Form(root / name)


@form(LAYOUTS, "one table (`.csv`, `.json`) or array (`.npz`)")
def _tables(root: Path) -> Iterator[Form]:
    for name in ("a.csv", "a.json", "a.npz"):
        write(root / name, b"")
        yield Form(root / name)


@form(LAYOUTS, "a folder of tar shards without `wds/`")
def _shards(root: Path) -> Iterator[Form]:
    write_tar(root / "train.tar", {"0.png": png(0)})
    yield Form(root)


@form(LAYOUTS, "an empty folder")
def _nothing(root: Path) -> Iterator[Form]:
    yield Form(root)


@form(LAYOUTS, "no folder")
def _nowhere(root: Path) -> Iterator[Form]:
    yield Form(root / "nowhere")


TABLES = {"Layouts": LAYOUTS}


@pytest.mark.parametrize(("section", "name"), [(section, name) for section, table in TABLES.items() for name in table])
def test_each_row_of_the_tables(section: str, name: str, tmp_path: Path) -> None:
    check_rows(section, TABLES[section], name, tmp_path)


@pytest.mark.parametrize("section", TABLES)
def test_no_row_is_without_a_test(section: str) -> None:
    assert documented_rows(section).keys() == TABLES[section].keys()
