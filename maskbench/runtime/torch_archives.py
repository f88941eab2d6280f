"""Files of torch.save from elsewhere: what to check before torch makes room for what they say that they hold."""

import io
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import torch
from torch import Tensor


def ensure_plain_archive(file: BinaryIO | io.BytesIO) -> None:
    """Check a file before `torch.load`: torch stores tensors as they are, so a file is as large as they are together.

    Raises:
        ValueError: It is a zip archive with compressed members, or with members that share bytes, and so would take
            more memory than its size.
    """
    size = file.seek(0, io.SEEK_END)
    try:
        if not zipfile.is_zipfile(file):
            return  # as torch wrote them before 1.6
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError):
        raise ValueError("its directory is damaged") from None
    finally:
        file.seek(0)
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("it is compressed, as torch never writes it")
    if sum(member.file_size for member in members) > size:
        raise ValueError("it says that it holds more than its size")


def ensure_own_storage(content: Any) -> None:
    """Check that no tensor in what `torch.load` returned is larger than its data.

    Raises:
        ValueError: One is sparse, quantised or without data, or repeats its data by strides of 0.
    """
    for tensor in list_tensors(content):
        is_dense = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not is_dense or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError("it has a tensor that is not as large as it says")


def list_tensors(content: Any) -> Iterator[Tensor]:
    """Every tensor in nested dicts, lists and tuples, which may hold themselves."""
    waiting, seen = [content], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)
