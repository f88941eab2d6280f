"""A run's last two checkpoints: whole or not there, checked when read, plain tensors and values inside."""

import errno
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from maskbench.errors import UsageError
from maskbench.runtime.atomic_files import write_atomically
from maskbench.runtime.regular_files import MIB, read_regular
from maskbench.runtime.torch_archives import ensure_own_storage, ensure_plain_archive

MAX_BYTES = 2**17 * MIB  # of a checkpoint: 11 billion weights with their optimizer
DIGEST = 64  # hexadecimal places of a SHA-256


class Damaged(ValueError):
    """A checkpoint that was cut off or changed."""


class Checkpoints:
    """`checkpoint.pt` in a run's folder, and the one before it. `torch.load(path, weights_only=True)` reads either."""

    def __init__(self, folder: Path) -> None:
        self.newest = folder / "checkpoint.pt"
        self.previous = folder / "checkpoint-previous.pt"

    def save(self, content: dict[str, Any]) -> None:
        """Write `content`; of those written before, the last one stays. OSError where the disk refuses."""
        sealed = seal(content)
        if self.newest.exists():
            self.newest.replace(self.previous)
        write_atomically(self.newest, sealed)

    def load(self, note: Callable[[str], None]) -> dict[str, Any] | None:
        """The newest content that is whole, on CPU; None where there is none. Damaged files are named and removed, so
        that the next `save` does not push out a whole one to keep a damaged one. UsageError for a folder of this name,
        which stays."""
        for path in (self.newest, self.previous):
            if path.is_dir():
                raise UsageError(f"{path} is a folder, where a checkpoint should be; move it away")
            try:
                return unseal(_read(path))
            except FileNotFoundError:
                continue
            except Damaged as error:
                note(f"{path} is damaged ({error}); falling back to the one before it, or to the start")
                path.unlink()
        return None

    def describe_last(self, note: Callable[[str], None]) -> str:
        """Where a diverged run can be looked at as it was before."""
        content = self.load(note)
        if content is None:
            return "there is no checkpoint before it"
        return f"the last good checkpoint is of step {content['state']['step']}"

    def remove(self) -> None:
        """Both, where there are any."""
        for path in (self.newest, self.previous):
            path.unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_BYTES)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EFBIG):
            raise Damaged(error.strerror) from None
        raise


def seal(content: dict[str, Any]) -> memoryview:
    """torch's archive of `content`, with the SHA-256 of all before it as the archive's comment."""
    buffer = io.BytesIO()  # one copy in memory: checkpoints may be as large as it
    torch.save(content, buffer)
    with buffer.getbuffer() as archive:
        assert bytes(archive[-2:]) == b"\0\0", "a zip archive ends with the length of its comment, here none"
        archive[-2:] = DIGEST.to_bytes(2, "little")
        digest = hashlib.sha256(archive).hexdigest()
    buffer.seek(0, io.SEEK_END)
    buffer.write(digest.encode())
    return buffer.getbuffer()


def unseal(data: bytes) -> dict[str, Any]:
    """What `seal` was given. Damaged unless every byte is as it was, and holds tensors and plain values alone."""
    archive, digest = memoryview(data)[:-DIGEST], data[-DIGEST:]
    if hashlib.sha256(archive).hexdigest().encode() != digest:
        raise Damaged("its checksum does not match")
    try:
        ensure_plain_archive(io.BytesIO(data))
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        ensure_own_storage(content)
    except Exception as error:  # of torch and pickle, whichever a file that was sealed by somebody else causes
        raise Damaged(str(error).partition("\n")[0][:200] or type(error).__name__) from None
    if not isinstance(content, dict):
        raise Damaged(f"it holds a {type(content).__name__}")
    return content
