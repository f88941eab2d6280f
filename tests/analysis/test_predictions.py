"""The door for predictions.npz: what is damaged, too large or of another test set is named and left out."""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskbench.analysis import predictions
from maskbench.analysis.predictions import UnreadablePredictions, read_predictions
from maskbench.analysis.results import read_results
from maskbench.analysis.tables import write_tables
from tests.helpers.records import record, write_records

N = 40


def as_npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{"labels": np.zeros(N, np.uint8), "linear/mean": np.ones(N, np.uint8), **arrays})
    return buffer.getvalue()


def flip_bits(content: bytes) -> bytes:
    """Eight bytes of the first array turned over; the archive's directory is at the end."""
    return content[:80] + bytes(byte ^ 255 for byte in content[80:88]) + content[88:]


def as_zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def as_npy(header: str, content: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + content


LABELS = as_npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({N},), }}\n", bytes(N))
HUGE = as_npy("{'descr': '<i8', 'fortran_order': False, 'shape': (999999999999,), }\n", bytes(N))
HOSTILE = {
    "empty": (b"", "not a zip file"),
    "not a zip": (b"PK broken", "not a zip file"),
    "cut": (as_npz()[:-30], "not a zip file"),
    "bits turned over": (flip_bits(as_npz()), "CRC|decompressing|Error"),
    "no labels": (as_zip({"linear/mean.npy": LABELS}), "it has no labels"),
    "labels of another length": (as_npz(labels=np.zeros(N + 1, np.uint8)), rf"shape \({N + 1},\), and the record {N}"),
    "predictions of another length": (as_npz(**{"knn/cls": np.zeros(9, np.uint8)}), r"shape \(9,\), and the rec"),
    "one for all": (as_npz(**{"knn/cls": np.zeros((), np.int64)}), "not an array of whole numbers"),
    "hardly anything": (as_zip({"labels.npy": b"none"}), "fewer predictions than the record has test images, 40"),
    "three dimensions": (as_npz(**{"knn/cls": np.zeros((2, 2, N), np.uint8)}), "not an array of whole numbers"),
    "no repetition": (as_npz(**{"knn/cls": np.zeros((0, N), np.uint8)}), r"shape \(0, 40\)"),
    "fractions": (as_npz(labels=np.zeros(N)), "not an array of whole numbers"),
    "text": (as_npz(labels=np.full(N, "cat")), "not an array of whole numbers"),
    "objects": (as_npz(labels=np.full(N, None)), "not an array of whole numbers"),
    "a header that claims more": (as_zip({"labels.npy": HUGE}), "shape"),
    "a header of brackets": (as_zip({"labels.npy": as_npy("(" * 60_000)}), "not an array of whole numbers"),
    "a name that paints": (as_zip({"labels.npy": LABELS, "\x1b[31m.npy": LABELS}), r"'\\x1b\[31m.npy' is not the name"),
    "a long name": (as_zip({"labels.npy": LABELS, "a" * 999: LABELS}), "is not the name"),
    "many arrays": (as_zip({"labels.npy": LABELS, **{f"{i}.npy": LABELS for i in range(1000)}}), "it has 1001 arrays"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two runs that differ, with whole predictions; the record says N test images."""
    data = {**record().dataset, "sizes": {"train": 100, "validation": 10, "test": N}}
    write_records(tmp_path, record("random", dataset=data), record("gmml", dataset=data))
    for path in tmp_path.glob("runs/*"):
        (path / "predictions.npz").write_bytes(as_npz())
    return tmp_path


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_prediction_is_named_and_left_out(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, reason = HOSTILE[name]
    (path,) = folder.glob("runs/gmml-*/predictions.npz")
    path.write_bytes(content)
    write_tables(read_results(folder), folder / "tables")
    assert (folder / "tables" / "comparison.md").exists()
    assert not (folder / "tables" / "test-sample.md").exists(), "left out, so that nothing can be compared"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"maskbench: skipped {path}: not readable predictions (")
    with pytest.raises(UnreadablePredictions, match=reason):
        read_predictions(path, N)


def test_whole_predictions_are_read_as_they_were_written(folder: Path) -> None:
    (path,) = folder.glob("runs/gmml-*/predictions.npz")
    twice = np.arange(2 * N, dtype=np.uint16).reshape(2, N)
    written = {"labels": np.arange(N) % 3, "lowshot-1%/mean": twice, "other/order": np.asfortranarray(twice[::-1])}
    np.savez_compressed(path, **written)
    stored = read_predictions(path, N)
    assert stored.keys() == written.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(stored[name], array)


def test_size_is_checked_before_anything_is_unpacked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "MAX_BYTES", 2**20)
    (path,) = folder.glob("runs/gmml-*/predictions.npz")
    path.write_bytes(as_npz(**{"knn/cls": np.zeros(2**21, np.uint8)}))
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(UnreadablePredictions, match="it would unpack to 2 MiB, more than 1"):
        read_predictions(path, N)


def test_a_pipe_or_a_device_is_never_read(folder: Path) -> None:
    (path,) = folder.glob("runs/gmml-*/predictions.npz")
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_predictions(path, N)
    os.mkfifo(path)
    with pytest.raises(UnreadablePredictions, match="it is a pipe, not a file"):
        read_predictions(path, N)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(UnreadablePredictions, match="it is a device, not a file"):
        read_predictions(path, N)
