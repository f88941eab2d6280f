"""Data sets on disk: a folder of Parquet files (as Hugging Face datasets writes them) or of class folders of images."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from maskbench.data.encoded_images import EncodedImages
from maskbench.data.file_listing import FileListing, list_files, summarise
from maskbench.data.image_source import IMAGE_SUFFIXES, EncodedDataset, ImageSource, find_split, select_splits
from maskbench.data.unknown_layouts import describe_file, describe_folder, explain_labels
from maskbench.errors import UsageError

EXPECTED = "train*.parquet, or folders train/<class>/<image>"
PARQUET = {".parquet"}


def find_source(root: Path, label_column: str | None = None) -> ImageSource:
    """The folder `root`, whose Parquet files have their labels in `label_column`, if that is given.

    Images without classes are a training split alone, with no class name: Parquet files without labels, or a folder
    without class folders.

    Raises:
        UsageError: There is no folder, or it holds no data set of a known form.
    """
    if root.is_file():
        raise UsageError(describe_file(root))
    if not root.is_dir():
        raise UsageError(f"no folder {root}: give a path that holds Parquet files or class folders of images")
    listing = list_files(root, IMAGE_SUFFIXES | PARQUET)
    left_out = Counter(listing.left_out)
    if not listing.files:
        raise UsageError(f"no Parquet files or images in {root}{_say_left_out(left_out) or describe_folder(root)}")
    if listing.with_suffix(PARQUET):
        read = _plan_parquet(listing, label_column, left_out)
    elif label_column is not None:
        raise UsageError(f"{root} holds images in folders, which have no columns; drop --label-column")
    else:
        read = _plan_folders(listing, left_out)
    key = {"root": str(root.resolve()), "files": listing.key, "label_column": label_column}

    def read_and_select(unpacked: Path) -> EncodedDataset:
        return select_splits(root, read(unpacked), EXPECTED)

    def explain() -> str:
        return _explain_labels(listing)

    return ImageSource(root.resolve().name, key, read_and_select, summarise(left_out), explain)


def _explain_labels(listing: FileListing) -> str:
    """What to do so that images get labels, where Parquet files have no usual column or images no class folders."""
    parquet_files = [file for file in listing.with_suffix(PARQUET) if find_split(file) == "train"]
    if not parquet_files:
        return explain_labels(listing.root, sorted({file.parts[0] for file in listing.files if len(file.parts) > 1}))
    from maskbench.data import parquet

    columns = parquet.read_schema(listing.root / parquet_files[0]).names
    return f"the columns of {parquet_files[0]} are {', '.join(columns)}: name that of the labels with --label-column"


def _say_left_out(left_out: Counter[str]) -> str:
    return f"; left out: {summarise(left_out)}" if left_out.total() else ""


def _plan_parquet(
    listing: FileListing, label_column: str | None, left_out: Counter[str]
) -> Callable[[Path], EncodedDataset]:
    """How Parquet files are read. Files of no split, and images beside them, are counted in `left_out`."""
    root, groups = listing.root, dict[str, list[Path]]()
    for file in listing.with_suffix(PARQUET):
        split = find_split(file)
        if split is None:
            left_out["Parquet files of no split"] += 1
        else:
            groups.setdefault(split, []).append(file)
    for split, members in groups.items():
        _ensure_one(split, root, sorted({file.parent for file in members}))
    left_out["image files beside the Parquet files"] += len(listing.with_suffix(IMAGE_SUFFIXES))

    def read(unpacked: Path) -> EncodedDataset:
        if not groups:
            return EncodedDataset({}, ())
        from maskbench.data import parquet  # imports pyarrow: 50 MiB that processes which only decode do without

        files_by_split = {split: [root / file for file in members] for split, members in groups.items()}
        return parquet.read_parquet(root, files_by_split, unpacked, label_column)

    return read


def _ensure_one(split: str, root: Path, folders: list[Path]) -> None:
    """UsageError where several folders are the same split: nothing says which is meant."""
    if len(folders) > 1:
        names = ", ".join(map(str, folders[:4]))
        raise UsageError(
            f"several folders of {root} are the split {split}: {names}; move all but one away, or give the folder that "
            f"holds the one that you mean"
        )


def _plan_folders(listing: FileListing, left_out: Counter[str]) -> Callable[[Path], EncodedDataset]:
    """How folders of images are read. Images that are in none of the splits or classes are counted in `left_out`."""
    root, found = listing.root, dict[str, list[Path]]()
    for folder in listing.folders:
        split = find_split(folder) if len(folder.parts) == 1 else None
        if split is not None:
            found.setdefault(split, []).append(folder)
    for split, same in found.items():
        _ensure_one(split, root, same)
    folders = {split: folder for split, (folder,) in found.items()}
    files = {split: [file for file in listing.files if file.parts[0] == str(folders[split])] for split in folders}
    classes = sorted({file.parts[1] for members in files.values() for file in members if len(file.parts) > 2})
    if not classes and ("train" in folders or not folders):
        return _plan_unlabelled(listing, folders.get("train"), left_out)
    left_out["image files outside of the splits"] += len(listing.files) - sum(map(len, files.values()))
    empty = [folder for folder in listing.folders if len(folder.parts) == 2 and folder.parts[1] not in classes]
    left_out["class folders without images"] += sum(folder.parts[0] in map(str, folders.values()) for folder in empty)
    splits = {split: _read_classes(root, split, files[split], classes, left_out) for split in folders}
    kept = {split: images for split, images in splits.items() if images is not None}
    return lambda _: EncodedDataset(kept, tuple(classes))


def _read_classes(
    root: Path, split: str, files: list[Path], classes: list[str], left_out: Counter[str]
) -> EncodedImages | None:
    """The images of a split with their classes; None where it is not train and has images but no class folders."""
    sorted_files = [file for file in files if len(file.parts) > 2]
    if files and not sorted_files and split == "train":
        raise UsageError(
            f"the images in {root / files[0].parts[0]} are in no class folders, but those of other splits are: "
            f"{', '.join(classes[:4])}; sort them too, or move the other splits away to pre-train without labels"
        )
    left_out[f"image files of {split} in no class folder"] += len(files) - len(sorted_files)
    if files and not sorted_files:
        return None
    numbers = {name: number for number, name in enumerate(classes)}
    return _as_encoded(root, sorted_files, [numbers[file.parts[1]] for file in sorted_files])


def _plan_unlabelled(
    listing: FileListing, folder: Path | None, left_out: Counter[str]
) -> Callable[[Path], EncodedDataset]:
    root, inside = listing.root, folder or Path()
    files = [file for file in listing.files if folder is None or folder in file.parents]
    inner = [path for file in files for path in file.relative_to(inside).parents if find_split(Path(path.name))]
    if inner or not files:
        why = f"{inner[0]} inside it is part of a data set" if inner else f"no images in {root / inside}"
        raise UsageError(f"no training split in {root}: {why}; give a folder with train/<class>/<image>, or images")
    left_out["image files outside of train, which has no classes"] += len(listing.files) - len(files)
    return lambda _: EncodedDataset({"train": _as_encoded(root, files, [0] * len(files))}, ())


def _as_encoded(root: Path, files: list[Path], labels: list[int]) -> EncodedImages:
    return EncodedImages.from_files([root / file for file in files], [f"{file} in {root}" for file in files], labels)
