"""Names and settings out of records, in every table, figure and page: shown as they are, and never more."""

import csv
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from maskbench.analysis.figures import write_figures
from maskbench.analysis.report import write_report
from maskbench.analysis.results import read_results
from maskbench.analysis.results_diff import as_markdown, compare_results
from maskbench.analysis.tables import write_tables
from maskbench.errors import UsageError
from tests.helpers.records import record, write_records

NAMES = ["=cmd|' /C calc'!A0", r"$\frac{1}$", "<img src=x onerror=alert(1)>", r"\input{/etc/passwd}", "a | b"]


DATA = {**record().dataset, "name": r"=a $\frac{1}$ | b <img src=x onerror=alert(1)> \input{/etc/passwd}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder from elsewhere of every name beside random, on a data set whose name is no better."""
    root = tmp_path_factory.mktemp("results")
    for seed in range(2):
        write_records(root, record("random", seed, 0.5, dataset=DATA))
        for number, name in enumerate(NAMES):
            parameters = {"source": "x.pth", "label": name, "digest": str(number) * 64, "part": ""}
            objective = {"name": "external", "parameters": parameters}
            run = record("none", seed, 0.4 + seed / 10, dataset=DATA, run_id=f"none-{number}-s{seed}", curve=[],
                         settings={"objective": objective}, objective={**objective, "version": 1})  # fmt: skip
            write_records(root, run)
    write_tables(read_results(root), root / "tables")
    return root


def test_markdown_tables_keep_their_cells(folder: Path) -> None:
    for path in (folder / "tables").glob("*.md"):
        text = path.read_text()
        assert not re.search(r"<[A-Za-z/!?]", text), "no HTML"
        for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            widths = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table.splitlines()}
            assert len(widths) == 1, table


def test_csv_cells_are_no_formulas_and_numbers_are_numbers(folder: Path) -> None:
    for path in (folder / "tables").glob("*.csv"):
        rows = list(csv.reader(io.StringIO(path.read_text())))
        for cell in [cell for row in rows for cell in row if cell[:1] in tuple("=+-@\t")]:
            float(cell)
    rows = list(csv.DictReader(io.StringIO((folder / "tables" / "comparison.csv").read_text())))
    (row,) = [row for row in rows if "calc" in row["strategy"]]
    assert row["strategy"].startswith("'=cmd") and float(row["linear/top1/mean"]) == 0.45


def test_latex_rows_hold_no_commands_of_data(folder: Path) -> None:
    for path in (folder / "tables").glob("*.tex"):
        assert not re.search(r"\\(input|frac)", path.read_text())


def test_figures_and_the_page_show_the_names(folder: Path) -> None:
    """A dollar sign made matplotlib read mathematics, and end report and plot."""
    written = write_figures(read_results(folder), folder / "figures")
    texts = "".join(
        text for path in written if path.suffix == ".svg" for text in ElementTree.parse(path).getroot().itertext()
    )
    for name in NAMES:
        assert name.split()[0] in texts
    page = write_report(read_results(folder), folder / "report.html").read_text()
    assert "<img src=x" not in page and "&lt;img src=x" in page


def test_a_paper_is_read_as_plain_data(folder: Path, tmp_path: Path) -> None:
    paper = tmp_path / "paper.csv"
    paper.write_text("strategy,linear/top1/mean\n<b>theirs</b>|x,50\nrandom,40\n")
    text = as_markdown(compare_results(paper, folder))
    assert r"&lt;b>theirs&lt;/b>\|x" in text
    for content in ("", "\0", "strategy,linear/top1/mean\nrandom,inf\n", "strategy,linear/top1/mean\nrandom,-5\n"):
        paper.write_text(content)
        with pytest.raises(UsageError, match="paper.csv"):
            compare_results(paper, folder)
