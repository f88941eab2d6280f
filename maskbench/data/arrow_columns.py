"""The columns of images and labels in Arrow schemas: which they are, what they may hold, and the classes' names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow

from maskbench.errors import UsageError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")

Kind = Literal["text", "numbers", "nothing"]


def find_image_column(source: Path | str, schema: pyarrow.Schema) -> str:
    """The column of encoded images. UsageError where there is none, several, or one that holds something else."""
    found = [name for name in IMAGE_COLUMNS if name in schema.names]
    if not found:
        raise UsageError(f"{source} has no column 'image'; its columns are {', '.join(schema.names)}")
    if len(found) > 1:
        raise UsageError(f"{source} has several columns of images: {', '.join(found)}; remove all but one")
    kind = schema.field(found[0]).type
    if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)):
        what = "text, perhaps paths" if _is_text(kind) else str(kind)
        raise UsageError(
            f"the column {found[0]} of {source} holds {what}, where the bytes of an encoded image should be; "
            f"write it with the bytes, as the library datasets does, or give a folder of the images"
        )
    return found[0]


def find_label_column(source: Path | str, schema: pyarrow.Schema, wanted: str | None) -> str | None:
    """The column of labels: `wanted`, else the one with a usual name, else None.

    UsageError where `wanted` is not there, where several columns have a usual name, or where one holds no classes.
    """
    found = [wanted] if wanted is not None else [name for name in LABEL_COLUMNS if name in schema.names]
    if len(found) > 1:
        raise UsageError(f"{source} has several columns of labels: {', '.join(found)}; name one with --label-column")
    if not found:
        return None
    if found[0] not in schema.names:
        raise UsageError(f"{source} has no column {found[0]!r}; its columns are {', '.join(schema.names)}")
    label_kind(source, schema, found[0])
    return found[0]


def label_kind(source: Path | str, schema: pyarrow.Schema, column: str) -> Kind:
    """Whether the labels are text or numbers. UsageError for lists and other things that name no class."""
    kind = schema.field(column).type
    if _is_text(kind):
        return "text"
    if pyarrow.types.is_null(kind):
        return "nothing"
    numeric = (pyarrow.types.is_integer, pyarrow.types.is_floating, pyarrow.types.is_boolean)
    if any(is_kind(kind) for is_kind in numeric):
        return "numbers"
    raise UsageError(
        f"the column {column} of {source} holds {kind}, where one number or one text should name the class of an "
        f"image; write such a column, and name it with --label-column if it is not called label"
    )


def _is_text(kind: pyarrow.DataType) -> bool:
    value = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    return bool(pyarrow.types.is_string(value) or pyarrow.types.is_large_string(value))


def class_names(schema: pyarrow.Schema, column: str) -> tuple[str, ...] | None:
    """The class names that the library datasets stores for a column, if any. UsageError where they are damaged."""
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        feature = metadata.get("info", {}).get("features", {}).get(column, {})
        names = feature.get("names") if isinstance(feature, dict) else None
        if not names:
            return None
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return tuple(names)
    except (ValueError, AttributeError, RecursionError):
        pass
    raise UsageError(
        f"the names of the classes of column {column}, in the metadata that the library datasets writes, are damaged; "
        f"write the files again"
    )


def match_classes(
    names: Mapping[str, tuple[str, ...] | None], kinds: Mapping[str, Kind]
) -> tuple[tuple[str, ...] | None, dict[str, dict[Any, int]]]:
    """Match the classes of several sources by name. The order is that of the first source.

    Args:
        names: The classes' names by source, None where it has none.
        kinds: What labels are, by source.

    Returns:
        The names of the first source, or None where no source has any; for each source with names, the number of each
        of its label values. A value whose name the first source lacks has none.

    Raises:
        UsageError: Labels are text here and numbers there, or classes have names here and none there.
    """
    first = next(iter(names))
    for source in names:
        if kinds[source] != kinds[first]:
            raise UsageError(
                f"labels are {kinds[first]} in {first} and {kinds[source]} in {source}; write both in one way"
            )
        if (names[source] is None) != (names[first] is None):
            with_names, without = (first, source) if names[source] is None else (source, first)
            raise UsageError(f"{with_names} names its classes and {without} only numbers them; write both in one way")
    known = names[first]
    if known is None:
        return None, {}
    return known, {source: _match_names(source, own or (), first, known) for source, own in names.items()}


def _match_names(source: str, own: tuple[str, ...], first: str, known: tuple[str, ...]) -> dict[Any, int]:
    if own == known:
        return {number: number for number in range(len(known))}
    for where, listed in ((first, known), (source, own)):
        if len(set(listed)) < len(listed):
            raise UsageError(f"{where} gives two classes one name, and {source} orders them otherwise; rename one")
    return {number: known.index(name) for number, name in enumerate(own) if name in known}
