"""What a Markdown page has in it: fenced blocks, commands, links."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PLUGINS = DOCS / "plugins"
README = ROOT / "README.md"
PAGES = [README, ROOT / "results/README.md", ROOT / "benchmarks/README.md", *sorted(DOCS.rglob("*.md"))]
GUIDES = [page for page in PAGES if page.parent != DOCS / "strategies"]  # written by hand


def name_of(page: Path) -> str:
    """The page's path in the repository."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The contents of fenced blocks in a language, snippets left out."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found if "--8<--" not in text]


def shell_lines(page: Path) -> list[str]:
    """The lines of its shell blocks, continued lines joined, comments left out."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").split("\n")
    return [line.split(" #")[0].strip() for line in lines if line.strip()]


def maskbench_commands(page: Path) -> list[list[str]]:
    """The arguments of every maskbench command in its shell blocks, also where torchrun or srun starts it."""
    found = [re.search(r"(?:^|-m )maskbench (.*?)(?: > \S+)?$", line) for line in shell_lines(page)]
    return [shlex.split(match[1]) for match in found if match]


def inline_commands(page: Path) -> list[list[str]]:
    """The arguments of commands between backticks in its text."""
    prose = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [code.split() for code in re.findall(r"`maskbench ([^`]+)`", prose)]


def links(page: Path) -> list[str]:
    """The targets of its links and pictures, but for those in the web."""
    prose = re.sub(r"^ *```.*?^ *```$|`[^`]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [target for target in re.findall(r"\]\(\s*([^)\s]+)", prose) if not target.startswith("http")]


def anchors(page: Path) -> set[str]:
    """The anchors of its headings, as the site makes them."""
    text = re.sub(r'^--8<-- "(.*?)"$', lambda match: (ROOT / match[1]).read_text(), page.read_text(), flags=re.M)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}
