"""All tables of a results folder, and writing them to files."""

from collections.abc import Sequence
from pathlib import Path

from maskbench.analysis import (
    across_datasets,
    claims,
    epochs_to_baseline,
    probe_table,
    sampling_uncertainty,
    tuning_table,
)
from maskbench.analysis.comparison import compare_strategies
from maskbench.analysis.metrics import BASELINE
from maskbench.analysis.results import Results
from maskbench.analysis.sections import Section
from maskbench.analysis.table_formats import FORMATS
from maskbench.runtime.atomic_files import write_atomically


def make_other_tables(results: Results, baseline: str = BASELINE) -> dict[str, Sequence[Section]]:
    """Every table but the comparison, by file name; a table without anything to say has no section."""
    return {
        "claims": claims.make_sections(results),
        "across-data": across_datasets.make_sections(results, baseline),
        "epochs-to-baseline": epochs_to_baseline.make_sections(results, baseline),
        "test-sample": sampling_uncertainty.make_sections(results, baseline),
        "tuning": tuning_table.make_sections(results),
        "probes": probe_table.make_sections(results),
    }


def render_comparison(results: Results, baseline: str = BASELINE) -> dict[str, str]:
    """The text of the comparison by format: md, csv, tex, json, html. Nothing is written."""
    comparison = compare_strategies(results.frame, baseline, results.trials)
    return {format_: render(comparison) for format_, render in FORMATS.items()}


def write_tables(results: Results, folder: Path, baseline: str = BASELINE) -> dict[str, str]:
    """Write every table that has something to say, in every format, and remove earlier ones that no longer have.

    Args:
        results: A results folder, from `maskbench.analysis.results.read_results`.
        folder: Where `<table>.<format>` is written; made where it is missing.
        baseline: The label that others are compared with.

    Returns:
        The text of the comparison by format: md, csv, tex, json, html.
    """
    texts = render_comparison(results, baseline)
    folder.mkdir(parents=True, exist_ok=True)
    for format_, text in texts.items():
        write_atomically(folder / f"comparison.{format_}", text)
    for name, sections in make_other_tables(results, baseline).items():
        for format_, render in FORMATS.items():
            path = folder / f"{name}.{format_}"
            if sections:
                write_atomically(path, render(sections))
            else:
                path.unlink(missing_ok=True)
    return texts
