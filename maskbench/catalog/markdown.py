"""docs/strategies/, a page for each strategy and an index, from the code.

`python -m maskbench.catalog.markdown` writes the pages, `--pictures` the pictures instead; run both in the root of the
repository.
"""

import io
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, get_type_hints

from PIL import Image
from pydantic import TypeAdapter
from tabulate import tabulate

from maskbench.catalog import listing
from maskbench.catalog.docstrings import Description, describe
from maskbench.catalog.gallery import draw_strategies
from maskbench.catalog.sample_images import STAND_IN
from maskbench.runtime.atomic_files import write_atomically
from maskbench.strategy import REGISTRY, Strategy

TIMINGS = Path("results/bench/strategies.json")
FOLDER = Path("docs/strategies")
PICTURE_IMAGES = 5  # generated images in a picture
MAX_BYTES = 40_000  # of a picture
QUALITIES = range(85, 5, -10)  # of WebP, until a picture is small enough

INDEX = """# Strategies

{count} strategies ship with maskbench. A strategy decides what the encoder does not see of an image, and what must be
recovered. Each has a page with its picture, its algorithm, its parameters and its cost.

*Ratio*: share of the patches hidden with the settings of the paper, or of the area that carries the loss where pixels
are degraded and no patch is hidden. *Needs*: what the strategy must be given beside the images. *µs*: time for one
image, at 224 pixels in patches of 16, and at 32 pixels in patches of 4; {machine}.

{table}

`maskbench list pairs` shows which objective goes with which strategy. `maskbench show --all` draws all of them.
"""

PAGE = """# {name}

{summary}{experimental}

{picture}{facts}

## Algorithm

{algorithm}

## Parameters

{parameters}

## Deviations from the paper

{deviations}

## Measurements

Masks of {images} generated images of 14 x 14 patches; {stand_in}. *paper*: the settings of the paper. *matched*: 75 %
of every image, where the strategy can hide exactly that. Cost: {machine}.

{measurements}
"""

MEASUREMENTS = {
    "visible_tokens": "patches that the encoder sees",
    "components": "connected groups of hidden patches",
    "group_size": "patches in a group",
    "overlap": "share of the hidden patches that a second draw hides again",
    "object_hidden": "share of the object hidden",
}
Entry = dict[str, Any]  # of `list strategies --json`


def make_pages(entries: list[Entry], pairs: list[Entry], timings: dict[str, Any]) -> dict[str, str]:
    """The pages by file name.

    Args:
        entries: What `list strategies --json` prints.
        pairs: What `list pairs --json` prints.
        timings: What `bench strategies --json` prints.
    """
    shown = [entry for entry in entries if entry["name"] != "none"]
    objectives = {pair["name"]: pair["summary"].split() for pair in pairs}
    pages = {f"{entry['name']}.md": _page(entry, objectives[entry["name"]], timings) for entry in shown}
    table = tabulate([_index_row(entry, timings) for entry in shown], headers="keys", tablefmt="github")
    return {"index.md": INDEX.format(count=len(shown), machine=_machine(timings), table=table), **pages}


def _machine(timings: dict[str, Any]) -> str:
    machine = timings["machine"]
    torch = machine["torch"].partition("+")[0]
    return f"one thread of an {machine['cpu']} processor, torch {torch}, batch {machine['batch']}, without a teacher"


def _index_row(entry: Entry, timings: dict[str, Any]) -> dict[str, str]:
    costs = _costs(entry["name"], timings)
    return {
        "strategy": f"[{entry['name']}]({entry['name']}.md)",
        "what it does": _cell(entry["summary"]),
        "published": _published(entry),
        "ratio": _ratio(entry["diagnostics"]["paper"]),
        "needs": ", ".join(_needs(entry)) or "–",
        "µs at 224/16": costs.get(("paper", "224/16"), "–"),
        "µs at 32/4": costs.get(("paper", "32/4"), "–"),
    }


def _published(entry: Entry) -> str:
    """ "2022, [2205.14986](...)", as far as the docstring says."""
    text = entry["summary"] + " " + entry["details"]
    year = re.search(r"\b(20[12]\d)\b(?!\.)", re.sub(r"arXiv [\d.]+", "", text))
    arxiv = re.search(r"arXiv (\d{4}\.\d{5})", text)
    link = f"[{arxiv[1]}](https://arxiv.org/abs/{arxiv[1]})" if arxiv else ""
    return ", ".join(filter(None, [year[1] if year else "20" + arxiv[1][:2] if arxiv else "", link]))


def _link_arxiv(text: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _needs(entry: Entry) -> list[str]:
    wider = [f"a crop {entry['source_scale']:.2f} times as wide"] if entry["source_scale"] > 1 else []
    return [*(need.replace("_", " ") for need in entry["needs"]), *wider]


def _ratio(diagnostics: dict[str, Any]) -> str:
    mean, spread = diagnostics["realised_ratio_mean"], diagnostics["realised_ratio_sd"]
    return f"{mean:.2f}" if spread < 0.005 else f"{mean:.2f} ± {spread:.2f}"


def _costs(name: str, timings: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Microseconds an image by regime and grid."""
    return {
        (row["regime"], row["grid"]): f"{row['us_per_image']:.1f}"
        for row in timings["rows"]
        if row["strategy"] == name and row["device"] == "cpu"
    }


def _page(entry: Entry, objectives: list[str], timings: dict[str, Any]) -> str:
    name, cls = entry["name"], REGISTRY.get(entry["name"])
    text = describe(cls)
    image = FOLDER / "images" / f"{name}.webp"
    alt = f"Generated images, what the encoder sees of them with {name}, and what it must recover"
    return PAGE.format(
        name=name,
        summary=entry["summary"],
        experimental=" Experimental: its results may still change." if entry["experimental"] else "",
        picture=f"![{alt}](images/{image.name})\n\n" if image.exists() else "",
        facts=_facts(entry, objectives, text),
        algorithm=_link_arxiv(text.algorithm) or entry["summary"],
        parameters=_parameter_table(entry, cls, text),
        deviations=_link_arxiv(text.deviations) or "None is documented.",
        images=listing.DIAGNOSTIC_IMAGES,
        stand_in=STAND_IN,
        machine=_machine(timings),
        measurements=_measurement_table(entry, timings),
    )


def _facts(entry: Entry, objectives: list[str], text: Description) -> str:
    name = entry["name"]
    facts = {
        "Paper": _link_arxiv(text.paper),
        "Needs": ", ".join(_needs(entry)),
        "Objectives": ", ".join(f"`{objective}`" for objective in objectives),
        "Look at it": f"`maskbench show {name} --explain`",
        "Train with it": f"`maskbench run --strategy {name}`",
    }
    return "\n".join(f"- {label}: {fact}" for label, fact in facts.items() if fact)


def _parameter_table(entry: Entry, cls: type[Strategy], text: Description) -> str:
    if not entry["parameters"]:
        return "It has none."
    hints = get_type_hints(cls, include_extras=True)
    rows = []
    for name, default in entry["parameters"].items():
        type_, range_ = _type_and_range(TypeAdapter(hints[name]).json_schema())
        matched = entry["matched_parameters"][name]
        rows.append(
            {
                "parameter": f"`{name}`",
                "type": type_,
                "range": range_,
                "default": f"`{json.dumps(default)}`",
                "matched": "" if matched == default else f"`{json.dumps(matched)}`",
                "description": _cell(text.parameters.get(name, "")),
            }
        )
    rows = rows if any(row["matched"] for row in rows) else [_without(row, "matched") for row in rows]
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def _without(row: dict[str, str], key: str) -> dict[str, str]:
    return {name: value for name, value in row.items() if name != key}


def _type_and_range(schema: dict[str, Any]) -> tuple[str, str]:
    """Type and range of a parameter in words, from its JSON schema: ("number", "(0, 1)")."""
    if "anyOf" in schema:
        parts = [_type_and_range(option) for option in schema["anyOf"]]
        return " or ".join(type_ for type_, _ in parts), "; ".join(dict.fromkeys(each for _, each in parts if each))
    if "enum" in schema:
        return "choice", ", ".join(f"`{choice}`" for choice in schema["enum"])
    if schema["type"] == "array":
        element_type, element_range = _type_and_range(schema["prefixItems"][0])
        return f"pair of {element_type}s", element_range
    return schema["type"].replace("null", "none"), _interval(schema)


def _interval(schema: dict[str, Any]) -> str:
    """ "[0, 1)"; empty where there is no bound."""
    low, high = (schema.get(f"exclusive{side}", schema.get(side.lower())) for side in ("Minimum", "Maximum"))
    if low is None and high is None:
        return ""
    opening = "[" if "minimum" in schema else "("
    closing = "]" if "maximum" in schema else ")"
    return f"{opening}{'-∞' if low is None else f'{low:g}'}, {'∞' if high is None else f'{high:g}'}{closing}"


def _measurement_table(entry: Entry, timings: dict[str, Any]) -> str:
    regimes, costs = entry["diagnostics"], _costs(entry["name"], timings)
    rows = [["share hidden", *(_ratio(diagnostics) for diagnostics in regimes.values())]]
    for key, label in MEASUREMENTS.items():
        if key in regimes["paper"]:
            rows.append([label, *(f"{each[key]:.2f}" if key in each else "–" for each in regimes.values())])
    for grid, what in (("224/16", "224 pixels, patches of 16"), ("32/4", "32 pixels, patches of 4")):
        paper = costs.get(("paper", grid), "–")
        rows.append([f"µs an image, {what}", *(costs.get((regime, grid), paper) for regime in regimes)])
    return tabulate(rows, headers=["", *regimes], tablefmt="github", disable_numparse=True)


def shipped_entries() -> tuple[list[Entry], list[Entry]]:
    """The strategies that ship with maskbench, with diagnostics, and the objectives that go with each."""
    entries, broken = listing.KINDS["strategies"]()
    pairs, _ = listing.KINDS["pairs"]()
    if broken:
        sys.exit(f"broken strategies: {broken}")
    shipped = [entry for entry in entries if entry["origin"].startswith("maskbench ")]
    listing.add_diagnostics(shipped)
    return shipped, pairs


def write_pages() -> None:
    """Write every page, and remove those of strategies that are gone."""
    pages = make_pages(*shipped_entries(), json.loads(TIMINGS.read_text()))
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        write_atomically(FOLDER / name, text)
    for path in FOLDER.glob("*.md"):
        if path.name not in pages:
            path.unlink()


def write_pictures() -> None:
    """Draw every strategy on the same generated images; no download is needed."""
    for name in REGISTRY.names():
        if name != "none" and REGISTRY.origin(name).startswith("maskbench "):
            _write_picture(name, FOLDER / "images" / f"{name}.webp")


def _write_picture(name: str, path: Path) -> None:
    spec = {"name": name, "parameters": {}}
    with tempfile.TemporaryDirectory() as folder:
        drawing = Path(folder) / "drawing.png"
        draw_strategies([spec], drawing, "shapes", "112", 8, None, 0, PICTURE_IMAGES, gallery=False)
        with Image.open(drawing, formats=["PNG"]) as image:
            rendered = (_encode_webp(image, quality) for quality in QUALITIES)
            content = next(webp for webp in rendered if len(webp) <= MAX_BYTES)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)


def _encode_webp(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "WEBP", quality=quality)
    return buffer.getvalue()


if __name__ == "__main__":
    write_pictures() if sys.argv[1:] == ["--pictures"] else write_pages()
