"""The report: sentences that claim no more than the statistics, everything escaped, nothing from a network."""

import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from maskbench.analysis.comparison import compare_strategies
from maskbench.analysis.findings import findings
from maskbench.analysis.report import render_page, write_report
from maskbench.analysis.results import Results, read_results, to_frame
from maskbench.record import RunRecord
from tests.helpers.command_line import maskbench
from tests.helpers.records import record, write_records

SCORES = {
    "random": (0.52, 0.53, 0.54),
    "gmml": (0.41, 0.42, 0.43),
    "blur": (0.53, 0.54, 0.55),
    "random-init": (0.3, 0.31, 0.32),
    "supervised": (0.6, 0.61, 0.65),
}
RESULTS = Path(__file__).parents[2] / "results"
TAB, ENTER = "\ue004", "\ue007"  # WebDriver's names of keys
EVIL = "<script>alert(1)</script>"


def scored(scores: dict[str, tuple[float, ...]] = SCORES) -> list[RunRecord]:
    return [record(name, seed, value) for name, values in scores.items() for seed, value in enumerate(values)]


def findings_of(records: list[RunRecord]) -> str:
    (section,) = compare_strategies(to_frame(records))
    return " ".join(findings(section))


def test_findings_follow_the_statistics() -> None:
    text = findings_of(scored())
    assert text.startswith("blur has the highest mean, 54.0 % in linear mean; it cannot be told apart from random.")
    assert "Worse than random: gmml, −11.0 points [−" in text and "Better than" not in text
    assert "No difference from random is shown with 3 seeds: blur." in text
    assert "without training (random-init) reaches 31.0 %." in text
    assert "Above it: blur, +23.0 points [+" in text and "Not shown to be above it" not in text
    assert "Trained with labels (supervised), it reaches 62.0 %" in text
    assert "say nothing about photographs" in text


def test_what_training_has_not_helped_is_named() -> None:
    text = findings_of(scored({"random": (0.50, 0.51, 0.52), "gmml": (0.49, 0.50, 0.51), "blur": (0.40, 0.41, 0.42),
                               "random-init": (0.50, 0.505, 0.51)}))  # fmt: skip
    assert text.startswith(
        "random has the highest mean, 51.0 % in linear mean; it is not shown to be above random-init."
    )
    assert "Below it: blur, −9.5 points [" in text and "Not shown to be above it: random, +0.5 points [" in text


def test_one_that_is_best_is_said_to_be() -> None:
    text = findings_of(scored({"random": (0.50, 0.51, 0.52), "gmml": (0.60, 0.61, 0.62)}))
    assert text.startswith("gmml is best, 61.0 % in linear mean: better than every other strategy that was tested.")
    assert "Better than random: gmml, +10.0 points [" in text


def test_few_seeds_claim_nothing() -> None:
    text = findings_of(scored({"random": (0.5,), "gmml": (0.9,)}))
    assert "gmml has the highest mean" in text and "; n = 1 is too few to say which is best" in text
    assert "Better" not in text and "shown" not in text
    some = findings_of([*scored({"random": (0.5, 0.6), "gmml": (0.9,), "random-init": (0.4,)})])
    assert "n = 1 is too few" in some and "Difference from it, not tested: gmml, +50.0 points" in some


def test_times_that_no_machine_repeats_are_not_told_apart() -> None:
    def at(**rates: float) -> str:
        records = [record(name) for name in rates]
        for each, rate in zip(records, rates.values(), strict=True):
            each.metrics["cost/images_per_s"] = rate
        return findings_of(records)

    assert "Fastest: gmml, 1000 images/s; blur within 10 % of that" in at(gmml=1000, blur=920, random=500)
    alone = at(gmml=1000, blur=890)
    assert "Fastest: gmml, 1000 images/s, 1.1 times as fast as blur." in alone and "within" not in alone


def test_one_strategy_with_too_few_seeds_silences_no_other() -> None:
    text = findings_of([*scored({"random": (0.50, 0.51, 0.52), "gmml": (0.60, 0.61, 0.62)}), record("blur", 0, 0.9)])
    assert text.startswith(
        "blur has the highest mean, 90.0 % in linear mean; n = 1 is too few to say which is best. Of those that were "
        "tested, gmml may be the best."
    )
    assert "Better than random: gmml" in text


def test_what_is_not_complete_is_findings_of() -> None:
    failed = record("gmml", status="failed", metrics={})
    assert "Not complete: gmml (1 failed)." in findings_of([record(), record("blur"), failed])
    assert findings_of([failed]) == "No run of a strategy is complete."


class Parsed(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def evil() -> list[RunRecord]:
    one, other = record("random"), record("gmml", status="failed", error=EVIL, warnings=[EVIL])
    one = one.model_copy(update={"strategy": {**one.strategy, "name": EVIL}})
    return [one, other.model_copy(update={"dataset": {**other.dataset, "name": EVIL}})]


def test_everything_from_records_is_escaped(tmp_path: Path) -> None:
    text = render_page(Results(tmp_path, evil(), []))
    parsed = Parsed(text)
    assert EVIL not in text and "alert(1)" in parsed.text
    scripts = [attributes for tag, attributes in parsed.tags if tag == "script"]
    assert [attributes.get("type") for attributes in scripts if "type" not in attributes] == [None]
    assert all(not name.startswith("on") for _, attributes in parsed.tags for name in attributes)


def test_nothing_is_fetched_and_nothing_else_may_run(tmp_path: Path) -> None:
    parsed = Parsed(render_page(Results(tmp_path, scored(), [])))
    sources = [value or "" for _, attributes in parsed.tags for name, value in attributes.items() if name == "src"]
    assert sources and all(source.startswith("data:") for source in sources)
    assert not [tag for tag, _ in parsed.tags if tag in ("link", "iframe", "object")]
    links = [attributes["href"] or "" for tag, attributes in parsed.tags if tag == "a"]
    ids = {attributes["id"] for _, attributes in parsed.tags if "id" in attributes}
    assert all(link[0] == "#" and link[1:] in ids for link in links)
    (policy,) = [a["content"] or "" for tag, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy


def test_every_run_can_be_found_and_repeated(tmp_path: Path) -> None:
    records = scored()
    text = Parsed(render_page(Results(tmp_path, records, []))).text
    for each in records:
        assert f"maskbench rerun {tmp_path}/runs/{each.run_id}" in text
    assert "train.epochs: 6" in text, "settings that all share"
    assert "a cpu" in text


def test_a_run_of_a_plugin_is_repeated_with_its_plugin(tmp_path: Path) -> None:
    """As the record names it: a file with its digest, or a module; a package only has to be installed."""
    origins = {"my_mask.py sha256:c4f3af3c": " --plugin my_mask.py", "my.masks": " --plugin my.masks", "masks 1.2": ""}
    for origin, option in origins.items():
        one = record()
        one = one.model_copy(update={"strategy": {**one.strategy, "distribution": origin}})
        lines = Parsed(render_page(Results(tmp_path, [one], []))).text.splitlines()
        assert any(line.endswith(f"maskbench rerun {tmp_path}/runs/{one.run_id}{option}") for line in lines), origin


def test_the_words_of_the_table_are_explained(tmp_path: Path) -> None:
    text = " ".join(Parsed(render_page(Results(tmp_path, scored(), []))).text.split())
    assert "This page compares masking strategies for pre-training vision transformers." in text
    assert "cls: the probe reads the class token. mean: it reads the mean of the patch tokens." in text
    for word in ("images/s:", "mask share:", "MiB:", "realised ratio:"):
        assert word in text.partition("Cost")[2]


def test_the_command_writes_everything(tmp_path: Path) -> None:
    write_records(tmp_path / "mine", *scored())
    done = maskbench("report", "mine", cwd=tmp_path)
    assert done.code == 0 and done.out.strip() == "mine/report.html"
    assert {"report.html", "tables", "figures", "runs"} == {path.name for path in (tmp_path / "mine").iterdir()}
    assert "<h1>mine</h1>" in (tmp_path / "mine" / "report.html").read_text()
    assert maskbench("report", "nothing", cwd=tmp_path).code == 2
    wrong = maskbench("report", "mine", "--baseline", "randm", cwd=tmp_path)
    assert wrong.code == 2 and "Did you mean random" in wrong.err


def test_a_page_about_nothing(tmp_path: Path) -> None:
    assert "No records." in render_page(Results(tmp_path, [], []))


def many() -> list[RunRecord]:
    return [
        record("random", seed, 0.3 + lr / 2000 + seed / 1e3, run_id=f"random-{lr}-s{seed}",
               settings={"train.lr": lr / 1e5})
        for lr in range(1, 401) for seed in range(5)
    ]  # fmt: skip


def test_two_thousand_records_are_reported_quickly(tmp_path: Path) -> None:
    """In under 30 s of one core; the page is under 5 MiB."""
    store_quickly(tmp_path, many())
    start = time.process_time()
    path = write_report(read_results(tmp_path), tmp_path / "report.html")
    assert time.process_time() - start < 30
    assert path.stat().st_size < 5 * 2**20


def store_quickly(folder: Path, records: list[RunRecord]) -> None:
    for each in records:  # unsynced, unlike `write_records`
        path = folder / "runs" / each.run_id / "record.json"
        path.parent.mkdir(parents=True)
        path.write_text(each.model_dump_json())


@pytest.fixture(scope="module")
def browser() -> Any:
    webdriver = pytest.importorskip("selenium.webdriver")
    import shutil

    binary, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium here")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(driver)
    made = webdriver.Chrome(options=options, service=service)
    yield made
    made.quit()


def opened(browser: Any, path: Path, width: int = 1280, dark: bool = False) -> Any:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get(path.as_uri())
    return browser


def column(browser: Any, place: int) -> list[str]:
    script = (
        "return [...document.querySelector('table.sortable').tBodies[0].rows].filter(r => !r.hidden)"
        ".map(r => r.cells[arguments[0]].textContent)"
    )
    found: list[str] = browser.execute_script(script, place)
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_records(folder, *scored())
    return write_report(read_results(folder), folder / "report.html")


@pytest.mark.integration
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_accessible_and_fits(browser: Any, report: Path, width: int, dark: bool) -> None:
    axe = pytest.importorskip("axe_core_python.selenium").Axe()
    opened(browser, report, width, dark)
    browser.execute_script("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    found = axe.run(browser)
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found["violations"]] == []
    assert browser.get_log("browser") == [], "no error, nothing blocked"


@pytest.mark.integration
def test_sorting_and_filtering_by_keyboard(browser: Any, report: Path) -> None:
    opened(browser, report)
    heads = browser.execute_script(
        "return [...document.querySelectorAll('table.sortable th[scope=col]')].map(h => h.textContent)"
    )
    place = heads.index("linear mean")
    buttons = browser.find_elements("css selector", "table.sortable thead button")
    buttons[place].send_keys(ENTER)
    values = [float(re.findall(r"[\d.]+", text)[0]) for text in column(browser, place)]
    assert values == sorted(values, reverse=True) and len(values) == 5
    assert buttons[place].find_element("xpath", "..").get_attribute("aria-sort") == "descending"
    buttons[place].send_keys(" ")
    assert [float(re.findall(r"[\d.]+", text)[0]) for text in column(browser, place)] == sorted(values)
    difference = next(number for number, head in enumerate(heads) if head.startswith("Δ"))
    buttons[difference].send_keys(" ")
    assert column(browser, difference)[0].startswith("+1") and column(browser, difference)[-1] == "–"
    field = browser.find_element("css selector", "input[type=search]")
    field.send_keys("random")
    assert sorted(column(browser, 0)) == ["random", "random-init"]
    assert "2 of 5 rows" in browser.find_element("css selector", "[role=status]").text


@pytest.mark.integration
def test_curves_are_read_by_pointer_and_keyboard(browser: Any, report: Path) -> None:
    from selenium.webdriver import ActionChains

    opened(browser, report)
    chart = browser.find_element("css selector", ".curves svg")
    readings = browser.find_element("css selector", ".curves output")
    assert "Epoch 3" in readings.text and "random 53.0 %" in readings.text
    chart.send_keys("\ue012")  # left arrow
    assert "Epoch 2" in readings.text and "random 35.3 %" in readings.text
    ActionChains(browser).move_to_element_with_offset(chart, int(chart.size["width"] * 0.49), 0).perform()
    assert "Epoch 3" in readings.text


@pytest.mark.integration
@pytest.mark.parametrize(
    ("accuracies", "ticks"),
    [
        ((0.203, 0.427), "15 20 25 30 35 40 45"),
        ((0.31, 0.33), "30 31 32 33 34"),
        ((0.02, 0.99), "0 20 40 60 80 100"),
        ((0.5, 0.5), "49 50 51"),
    ],
)
def test_curves_have_round_ticks(browser: Any, tmp_path: Path, accuracies: tuple[float, float], ticks: str) -> None:
    rows = [{"epoch": epoch, "images": 1, "loss": 1.0, "cost/train_s": 1.0, "online/knn/top1/mean": value}
            for epoch, value in enumerate(accuracies, 1)]  # fmt: skip
    write_records(tmp_path, record(curve=rows))
    opened(browser, write_report(read_results(tmp_path), tmp_path / "report.html"))
    texts = [each.text for each in browser.find_elements("css selector", ".curves svg text")]
    assert " ".join(text.removesuffix(" %") for text in texts if text.endswith("%")) == ticks


@pytest.mark.integration
def test_links_and_folds_by_keyboard(browser: Any, tmp_path: Path) -> None:
    elsewhere = {**record().dataset, "name": "other", "fingerprint": "other-1"}
    write_records(
        tmp_path, record("random"), record("gmml"), record("random", run_id="random-other-s0", dataset=elsewhere)
    )
    opened(browser, write_report(read_results(tmp_path), tmp_path / "report.html"))
    browser.switch_to.active_element.send_keys(TAB)
    skip = browser.switch_to.active_element
    assert skip.text == "To the findings" and skip.is_displayed()
    skip.send_keys(ENTER)
    assert browser.switch_to.active_element.get_attribute("id") == "main"
    links = browser.find_elements("css selector", "nav a")
    assert len(links) == 2
    links[1].send_keys(ENTER)
    assert browser.current_url.endswith("#group-2")
    assert abs(browser.execute_script("return document.getElementById('group-2').getBoundingClientRect().top")) < 900
    for fold in browser.find_elements("css selector", "details"):
        summary = fold.find_element("tag name", "summary")
        assert fold.get_attribute("open") is None
        summary.send_keys(ENTER)
        assert fold.get_attribute("open") is not None and fold.find_element("css selector", "pre, table").is_displayed()
        summary.send_keys(" ")
        assert fold.get_attribute("open") is None


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("committed") / "report.html"
    return write_report(read_results(RESULTS / "cifar10-small"), path)


@pytest.mark.integration
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_the_report_of_a_committed_suite(browser: Any, committed: Path, width: int, dark: bool) -> None:
    """Looks, sorting, filtering, curves and folds of what was really run."""
    axe = pytest.importorskip("axe_core_python.selenium").Axe()
    opened(browser, committed, width, dark)
    assert len(browser.find_elements("css selector", ".masks img")) == 4, "one for each strategy, none for controls"
    wide = browser.execute_script(
        "return [...document.querySelectorAll('main > section > .wide')].map(e => e.scrollWidth - e.clientWidth)"
    )
    assert len(wide) >= 2 and (width < 1280 or not any(wide)), "on a laptop every column is in view"
    heads = browser.find_elements("css selector", "table.sortable thead button")
    place = 1 + [head.text for head in heads[1:]].index("linear mean")
    heads[place].send_keys(ENTER)
    assert column(browser, 0)[0] == "random" and column(browser, 0)[-1] == "attmask-high"
    field = browser.find_element("css selector", "input[type=search]")
    field.send_keys("mask")
    assert column(browser, 0) == ["attmask-high"]
    costs = browser.find_elements("css selector", "table.costs tbody th")
    assert [each.text for each in costs if each.is_displayed()] == ["attmask-high"]
    field.clear()
    field.send_keys(" ")  # `clear` tells the page nothing
    browser.find_element("css selector", ".curves svg").send_keys("\ue011")  # Home
    assert browser.find_element("css selector", ".curves output").text.startswith("Epoch 2: ")
    for summary in browser.find_elements("tag name", "summary"):
        summary.send_keys(ENTER)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in axe.run(browser)["violations"]] == []
    assert browser.get_log("browser") == []


@pytest.mark.integration
def test_without_javascript_everything_is_there(browser: Any, report: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened(browser, report)
        text = browser.find_element("tag name", "body").text
        assert "blur has the highest mean" in text and "gmml" in text
        images = browser.find_elements("css selector", "figure img")
        assert len(images) >= 5 and all(image.is_displayed() for image in images)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.integration
def test_foreign_scripts_do_nothing(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_page(Results(tmp_path, evil(), [])))
    opened(browser, path)
    from selenium.common.exceptions import NoAlertPresentException

    with pytest.raises(NoAlertPresentException):
        _ = browser.switch_to.alert.text
    assert EVIL in browser.find_element("tag name", "body").get_attribute("textContent")
    assert browser.get_log("browser") == []


@pytest.mark.integration
def test_a_page_of_two_thousand_records_stays_usable(browser: Any, tmp_path: Path) -> None:
    """First paint under 1 s and sorting 400 rows under 200 ms, the best of three, for these machines are noisy."""
    store_quickly(tmp_path, many())
    path = write_report(read_results(tmp_path), tmp_path / "report.html")
    paints, sorts = [], []
    for _ in range(3):
        opened(browser, path)
        time.sleep(0.5)
        paint = "return performance.getEntriesByName('first-contentful-paint')[0].startTime"
        paints.append(browser.execute_script(paint))
        clicked = (
            "const start = performance.now(); document.querySelectorAll('table.sortable thead button')[3].click();"
            "document.body.offsetHeight; return performance.now() - start"
        )
        sorts.append(browser.execute_script(clicked))
    assert len(column(browser, 0)) == 400
    print("first paint, ms:", paints, "sorting, ms:", sorts)
    assert min(paints) < 1000 and min(sorts) < 200
