"""`maskbench data`: what is there and how it would be read, before any run."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskbench.cli.shared_options import AsJson, write_under
from maskbench.runtime.escaping import dump_json, escape_lines, print_message
from maskbench.runtime.standard_streams import print_data

if TYPE_CHECKING:
    from maskbench.data.survey import Survey

PICTURES = 8  # of each class
MAX_CLASSES = 20  # in the picture


def data(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="As for run --dataset: a path, torch/NAME, ...")],
    img_size: Annotated[str, typer.Option(help="Size of the samples: 224 or 160x224 (rows x cols).")] = "64",
    in_chans: Annotated[int, typer.Option(min=1, help="Channels of the samples.")] = 3,
    data_dir: Annotated[str | None, typer.Option(help="As for run.")] = None,
    labels: Annotated[str | None, typer.Option(metavar="FILE.csv", help="As for run.")] = None,
    file_column: Annotated[str | None, typer.Option(help="As for run.")] = None,
    label_column: Annotated[str | None, typer.Option(help="As for run.")] = None,
    split_column: Annotated[str | None, typer.Option(help="As for run.")] = None,
    group_column: Annotated[str | None, typer.Option(help="As for run.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw samples, as a model gets them.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a data set holds and how it would be read.

    Splits, classes and counts, kinds and sizes of images, what would be left out and why, and what a person should know
    before a run. Exit code 2 where a run would refuse it.
    """
    from maskbench.catalog.pictures import draw_samples
    from maskbench.config.settings import Data
    from maskbench.data.label_table import make_table
    from maskbench.data.load import Labels
    from maskbench.data.survey import sample_images, survey_dataset
    from maskbench.errors import UsageError

    if dataset == "shapes":
        raise UsageError("shapes are generated, 10,000 for training and 2,000 for test; name a data set of yours")
    found: Labels = label_column
    if labels is not None:
        found = make_table(labels, file_column, label_column, split_column, group_column)
    survey = survey_dataset(dataset, data_dir, found)
    print_data(dump_json(asdict(survey), indent=1) if as_json else describe(survey))
    if output is not None:
        size = Data(img_size=img_size).img_size  # type: ignore[arg-type]
        rows = sample_images(dataset, data_dir, found, (*size, in_chans), PICTURES)
        shown = {name: row for name, row in rows.items() if row}
        names = list(shown)[:MAX_CLASSES]
        write_under(output.parent, lambda: draw_samples(names, [shown[name] for name in names], output))
        print_message(f"samples: {output}")
    damaged = sum(len(split.damaged) for split in survey.splits.values())
    if damaged:
        raise UsageError(f"{damaged} images cannot be read, so a run refuses the data; repair or remove them")


def describe(survey: "Survey") -> str:
    """The survey as text: a table of the splits, one of the classes, and remarks."""
    from tabulate import tabulate

    total = sum(split.images for split in survey.splits.values())
    lines = [f"{survey.name}: {total:,} images, {len(survey.classes) or 'no'} classes", ""]
    rows = []
    for name, split in survey.splits.items():
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in split.kinds.items())
        sizes = " x ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in split.sizes.values())
        values = "" if split.value_range is None else "{}-{}".format(*split.value_range)
        rows.append([name, f"{split.images:,}", kinds, sizes, values])
    lines += [tabulate(rows, ["split", "images", "kinds", "rows x columns", "values"], disable_numparse=True), ""]
    if survey.classes:
        counts = [[name, *(split.by_class[name] for split in survey.splits.values())] for name in survey.classes]
        lines += [tabulate(counts[:MAX_CLASSES], ["class", *survey.splits]), ""]
        if len(counts) > MAX_CLASSES:
            lines += [f"and {len(counts) - MAX_CLASSES} more classes (--json has all)", ""]
    if survey.left_out:
        lines.append(f"left out: {survey.left_out}")
    lines += [f"- {remark}" for remark in survey.remarks]
    return escape_lines("\n".join(lines).rstrip())
