"""A path that is not a data set: what it looks like, and what to type."""

from pathlib import Path

from maskbench.data.file_listing import is_hidden

TABLES = {".csv", ".tsv", ".json", ".jsonl", ".xlsx", ".txt"}
ARRAYS = {".npy", ".npz", ".h5", ".hdf5", ".mat", ".pt", ".pth", ".pkl", ".pickle"}
ARCHIVES = {".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"}
MAX_ENTRIES = 1000  # looked at, in a folder


def describe_file(path: Path) -> str:
    """One line for a file that was given where a folder should be."""
    suffix, folder = path.suffix.lower(), _as_path(path.parent)
    if suffix == ".parquet":
        return (
            f"{path} is one Parquet file: give its folder, --dataset {folder}, in which files are called "
            f"train*.parquet and test*.parquet"
        )
    if suffix == ".tar":
        return f"{path} is a tar shard: give its folder, --dataset wds/{path.parent}"
    if suffix in ARCHIVES:
        unpack = "unzip" if suffix == ".zip" else "tar -xf"
        return f"{path} is an archive: unpack it ({unpack} {path}), and give the folder that comes out"
    if suffix in TABLES or suffix in ARRAYS:
        return f"{path} is {_what(suffix)}, which is not read: {_write_instead()}"
    return f"{path} is a file: give a folder with train/<class>/<image> and test/<class>/<image>, or of Parquet files"


def describe_folder(folder: Path) -> str:
    """One line for a folder without Parquet files and images: what it holds instead, and what to do about it."""
    names = [path for _, path in zip(range(MAX_ENTRIES), folder.rglob("*"), strict=False) if not is_hidden(path.name)]
    suffixes = [path.suffix.lower() for path in names if path.is_file()]
    if ".tar" in suffixes:
        return f"; it holds tar shards: type --dataset wds/{folder}"
    if ".arrow" in suffixes:
        return f"; it holds Arrow files: type --dataset hfds/{folder}, or write them as Parquet files"
    for known, advice in ((ARCHIVES, "unpack them"), (ARRAYS, _write_instead()), (TABLES, _write_instead())):
        found = next((suffix for suffix in suffixes if suffix in known), None)
        if found is not None:
            return f"; it holds {suffixes.count(found)} files {found}: {advice}"
    return ""


def explain_labels(folder: Path, inside: list[str]) -> str:
    """How images without class folders get labels. inside: folders that hold them, which may be classes."""
    if not inside:
        return f"sort the images into {folder}/train/<class>/ and {folder}/test/<class>/"
    names = ", ".join(inside[:4]) + (", ..." if len(inside) > 4 else "")
    return (
        f"the folders {names} of {folder} count as classes only inside of {folder}/train/ and {folder}/test/: move "
        f"them there"
    )


def _what(suffix: str) -> str:
    return "a table" if suffix in TABLES else "a file of arrays"


def _write_instead() -> str:
    return (
        "write the images to train/<class>/<image> and test/<class>/<image>, or to Parquet files with image and label"
    )


def _as_path(folder: Path) -> str:
    text = str(folder)
    return text if "/" in text else f"./{text}" if text != "." else "./"
