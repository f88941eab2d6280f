"""docs/strategies.md, from the code: `python -m maskbench.catalog.markdown` writes it."""

import json
import re
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

from maskbench.catalog import listing
from maskbench.catalog.sample_images import STAND_IN
from maskbench.runtime.atomic_files import write_atomically

TIMINGS = Path("results/bench/strategies.json")
PAGE = Path("docs/strategies.md")

HEAD = """# Strategies

Made by `python -m maskbench.catalog.markdown` from the strategies' own descriptions, from what they do to {count}
generated images of 14 x 14 patches ({told}), and from the timings in {timings}. *paper*: the published defaults;
*matched*: exactly 75 % of every image, where a strategy can. Ratio: share of the patches hidden, or of the area that
carries the loss where only pixels are degraded.
"""


def page(entries: list[dict[str, Any]], timings: dict[str, Any]) -> str:
    """The page, from `list strategies --json` and `bench strategies --json`."""
    shown = [entry for entry in entries if entry["name"] != "none"]
    head = HEAD.format(count=listing.DIAGNOSED, told=STAND_IN, timings=f"`{TIMINGS}`")
    machine = timings["machine"]
    where = f"one thread of {machine['cpu']}, batch {machine['batch']}, without a teacher's pass"
    cost = f"Cost: microseconds an image on {where}."
    overview = tabulate([_line(entry, timings) for entry in shown], headers="keys", tablefmt="github")
    return "\n".join([head + cost, "", overview, *(_section(entry, timings) for entry in shown)]) + "\n"


def _line(entry: dict[str, Any], timings: dict[str, Any]) -> dict[str, str]:
    costs = _costs(entry["name"], timings)
    found = entry["diagnostics"]["paper"]
    return {
        "strategy": f"[{entry['name']}](#{entry['name']})",
        "published": _published(entry),
        "ratio": _ratio(found),
        "needs": ", ".join(_needs(entry)) or "-",
        "us at 224/16": costs.get(("paper", "224/16"), "-"),
        "us at 32/4": costs.get(("paper", "32/4"), "-"),
    }


def _published(entry: dict[str, Any]) -> str:
    text = entry["summary"] + " " + entry["details"]
    year = re.search(r"\b(20[12]\d)\b(?!\.)", re.sub(r"arXiv [\d.]+", "", text))
    arxiv = re.search(r"arXiv (\d{4}\.\d{5})", text)
    link = f"[{arxiv[1]}](https://arxiv.org/abs/{arxiv[1]})" if arxiv else ""
    return " ".join(filter(None, [year[1] if year else "20" + arxiv[1][:2] if arxiv else "", link]))


def _needs(entry: dict[str, Any]) -> list[str]:
    wider = [f"a crop {entry['source_scale']:.2f} times as wide"] if entry["source_scale"] > 1 else []
    return [*(need.replace("_", " ") for need in entry["needs"]), *wider]


def _ratio(found: dict[str, Any]) -> str:
    mean, spread = found["realised_ratio_mean"], found["realised_ratio_sd"]
    return f"{mean:.2f}" if spread < 0.005 else f"{mean:.2f} ± {spread:.2f}"


def _costs(name: str, timings: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {
        (row["regime"], row["grid"]): f"{row['us_per_image']:.1f}"
        for row in timings["rows"]
        if row["strategy"] == name and row["device"] == "cpu"
    }


FIGURES = {
    "visible_tokens": "tokens seen",
    "components": "connected groups hidden",
    "group_size": "patches in a group",
    "overlap": "hidden again by another draw",
    "object_hidden": "share of the object hidden",
}


def _section(entry: dict[str, Any], timings: dict[str, Any]) -> str:
    regimes, costs = entry["diagnostics"], _costs(entry["name"], timings)
    rows = [["ratio", *(_ratio(found) for found in regimes.values())]]
    for key, told in FIGURES.items():
        if key in regimes["paper"]:
            rows.append([told, *(f"{found[key]:.2f}" if key in found else "-" for found in regimes.values())])
    for grid in ("224/16", "32/4"):
        same = costs.get(("paper", grid), "-")
        rows.append([f"us an image at {grid}", *(costs.get((regime, grid), same) for regime in regimes)])
    names = {**entry["parameters"], **entry["matched_parameters"]}
    for name in names:
        chosen = (entry["parameters"], entry["matched_parameters"])[: len(regimes)]
        rows.append([f"`{name}`", *(f"`{json.dumps(parameters[name])}`" for parameters in chosen)])
    marked = " (experimental)" if entry["experimental"] else ""
    needs = f"\nNeeds: {', '.join(_needs(entry))}.\n" if _needs(entry) else ""
    table = tabulate(rows, headers=["", *regimes], tablefmt="github", disable_numparse=True)
    return f"\n## {entry['name']}\n\n{entry['summary']}{marked}\n\n{entry['details']}\n{needs}\n{table}"


def main() -> None:
    """Write the page into the working directory's docs/."""
    entries, broken = listing.KINDS["strategies"]()
    if broken:
        sys.exit(f"broken strategies: {broken}")
    shipped = [entry for entry in entries if entry["origin"].startswith("maskbench ")]
    listing.with_diagnostics(shipped)
    write_atomically(PAGE, page(shipped, json.loads(TIMINGS.read_text())))


if __name__ == "__main__":
    main()
