"""The strategies' pages: they are what the code says, and every part of a docstring lands where it belongs."""

import json
import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from PIL import Image
from pydantic import Field, TypeAdapter

from maskbench.catalog import markdown
from maskbench.catalog.docstrings import describe
from maskbench.strategy import REGISTRY

ROOT = Path(__file__).parents[2]
NAMES = [name for name in REGISTRY.names() if name != "none"]


def test_pages_are_what_the_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    pages = markdown.make_pages(*markdown.shipped_entries(), json.loads(markdown.TIMINGS.read_text()))
    assert sorted(pages) == sorted(path.name for path in markdown.FOLDER.glob("*.md"))
    # Masks that follow an untrained encoder may differ in a last digit between processors.
    digits = re.compile(r" *\b\d+\.\d\d\b *|-{3,}:?")
    for name, text in pages.items():
        stored = (markdown.FOLDER / name).read_text()
        assert digits.sub("#", text) == digits.sub("#", stored), f"{name}: run `python -m maskbench.catalog.markdown`"


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_has_a_small_picture(name: str) -> None:
    path = ROOT / markdown.FOLDER / "images" / f"{name}.webp"
    assert path.stat().st_size <= markdown.MAX_BYTES
    with Image.open(path) as image:
        assert image.width > 400


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_described(name: str) -> None:
    strategy = REGISTRY.create(name)
    assert strategy.parameters.keys() <= describe(type(strategy)).parameters.keys()


class Base:
    """Shared.

    All variants do this. Deviation: none that matters.

    Attributes:
        ratio: Of the base.
    """


class Variant(Base):
    """Hides much.

    Doe, "Hide: a Study", ICLR 2022, arXiv 2205.00001: first this, then that. Deviations: fewer
    patches.

    Attributes:
        share: In two
            lines.
    """


def test_parts_of_a_docstring() -> None:
    text = describe(Variant)
    assert text.summary == "Hides much."
    assert text.paper == 'Doe, "Hide: a Study", ICLR 2022, arXiv 2205.00001'
    assert text.algorithm == "First this, then that. All variants do this."
    assert text.deviations == "Fewer patches. None that matters."
    assert text.parameters == {"ratio": "Of the base.", "share": "In two lines."}


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (Annotated[float, Field(gt=0, le=1)], ("number", "(0, 1]")),
        (Annotated[int, Field(ge=1)], ("integer", "[1, ∞)")),
        (Literal["a", "b"], ("choice", "`a`, `b`")),
        (tuple[float, float] | float, ("pair of numbers or number", "")),
        (float | None, ("number or none", "")),
        (bool, ("boolean", "")),
    ],
)
def test_types_and_ranges(hint: object, expected: tuple[str, str]) -> None:
    assert markdown._type_and_range(TypeAdapter(hint).json_schema()) == expected
