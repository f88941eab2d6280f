"""predictions.npz: what a run's probes predict for the test images. Checked before anything is unpacked."""

import math
import re
import zipfile
from pathlib import Path

import numpy as np

from maskbench.runtime.regular_files import MIB, open_regular

MAX_BYTES = 256 * MIB  # of all arrays, unpacked: 26 million test images with ten predictions each
MAX_ARRAYS = 1000
MAX_REPETITIONS = 1000
LABELS = "labels"
MAX_NAME = 200  # letters
_HEADER = re.compile(  # as numpy writes it for one or two dimensions of whole numbers
    rb"\{'descr': '([<|][iu][1248])', 'fortran_order': (True|False), 'shape': \((\d{1,12}),(?: (\d{1,12}))?\), \} *\n"
)
_MAGIC = b"\x93NUMPY\x01\x00"


class UnreadablePredictions(ValueError):
    """A file that holds no predictions for the record's test images."""


def read_predictions(path: Path, images: int) -> dict[str, np.ndarray]:
    """Read the predictions of a run.

    Args:
        path: A predictions.npz.
        images: Number of test images n, as the run's record says.

    Returns:
        Arrays of whole numbers of shape (n,), or (repetitions, n), by probe and pooling; "labels" (n,) holds the true
        classes.

    Raises:
        FileNotFoundError: There is no such file.
        UnreadablePredictions: The file is damaged, holds something else, or would unpack to more than MAX_BYTES. The
            message is one line that begins with the path.
    """
    try:
        with open_regular(path, MAX_BYTES) as opened, zipfile.ZipFile(opened) as archive:
            members = archive.infolist()
            _ensure_sizes(members, images)
            arrays = {member.filename.removesuffix(".npy"): _read_array(archive, member, images) for member in members}
    except FileNotFoundError:
        raise
    except Exception as error:  # of zipfile and zlib, whichever the broken bytes happen to cause
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UnreadablePredictions(f"{path}: not readable predictions ({_in_one_line(reason)})") from None
    return arrays


def _in_one_line(reason: object) -> str:
    return " ".join(str(reason).split())[:200] or type(reason).__name__


def _ensure_sizes(members: list[zipfile.ZipInfo], images: int) -> None:
    """ValueError where the archive's directory lists something else than named arrays of a sensible size."""
    names = [member.filename for member in members]
    if f"{LABELS}.npy" not in names:
        raise ValueError("it has no labels")
    if len(names) > MAX_ARRAYS or len(set(names)) < len(names):
        raise ValueError(f"it has {len(names)} arrays, {len(set(names))} of them with names of their own")
    odd = next((name for name in names if len(name) > MAX_NAME or not name.isprintable()), None)
    if odd is not None:
        raise ValueError(f"{odd[:40]!a} is not the name of a prediction")
    total = sum(member.file_size for member in members)
    if total > MAX_BYTES:
        raise ValueError(f"it would unpack to {total / MIB:,.0f} MiB, more than {MAX_BYTES / MIB:,.0f}")
    if min(member.file_size for member in members) < images:
        raise ValueError(f"it has fewer predictions than the record has test images, {images:,}")


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, images: int) -> np.ndarray:
    """One array. ValueError where it is not of whole numbers, or not one for each test image."""
    content = archive.read(member)
    start = len(_MAGIC) + 2 + int.from_bytes(content[len(_MAGIC) : len(_MAGIC) + 2], "little")
    header = _HEADER.fullmatch(content[len(_MAGIC) + 2 : start])
    if not content.startswith(_MAGIC) or header is None:
        raise ValueError(f"{member.filename} is not an array of whole numbers")
    shape = tuple(int(side) for side in header.group(3, 4) if side is not None)
    dtype = np.dtype(header[1].decode())
    expected = (images,) if member.filename == f"{LABELS}.npy" else (*shape[:-1], images)
    if shape != expected or (len(shape) == 2 and not 1 <= shape[0] <= MAX_REPETITIONS):
        raise ValueError(f"{member.filename} has the shape {shape}, and the record {images:,} test images")
    if len(content) - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{member.filename} is cut off, or longer than it says")
    array = np.frombuffer(content, dtype, offset=start)
    return array.reshape(shape, order="F" if header[2] == b"True" else "C")
