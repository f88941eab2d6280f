"""Text from data, made harmless for where it is shown: one function for each format.

Names of strategies, data sets, classes and files, and the settings of a run, come from files that somebody else may
have written. Each writer passes all of its text through the function of its format; nothing else escapes.
"""

import html
import json
import keyword
import math
import re
import sys
from typing import Any

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MARKDOWN = re.compile(r"[\\`|*]|<(?=[A-Za-z/!?])|&(?=[#\w]+;)|(?<=\])[(\[:]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_PLAIN_YAML = re.compile(r"[A-Za-z][\w-]*", re.ASCII)
_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "Δ": r"$\Delta$",
        "−": "$-$",
        "–": "--",
        "†": r"$\dagger$",
        "‡": r"$\ddagger$",
        "§": r"\S{}",
        "<": "$<$",
        ">": "$>$",
    }
)


def escape_control(text: str) -> str:
    r"""One line of visible text: what moves the cursor, colours, or turns the direction of reading is shown as \x1b.

    For terminals, for figures, and within every other format.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def escape_lines(text: str) -> str:
    """`escape_control` of each line of a text of several."""
    return "\n".join(map(escape_control, text.split("\n")))


def print_message(message: str) -> None:
    """A line of maskbench's own on stderr."""
    print(f"maskbench: {escape_control(' '.join(message.split()))}", file=sys.stderr)


def escape_markdown(text: str) -> str:
    """Text of one line that Markdown shows as it is, also within a table: no HTML, links, code, emphasis or cells."""
    return _MARKDOWN.sub(_escape_in_markdown, escape_control(text))


def _escape_in_markdown(found: re.Match[str]) -> str:
    return {"<": "&lt;", "&": "&amp;"}.get(found[0], f"\\{found[0]}")


def code_span(text: str) -> str:
    """Code within a line of Markdown outside of tables; backticks of the text do not end it."""
    text = escape_control(text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if text[:1] == "`" or text[-1:] == "`" else ""
    return f"{fence}{space}{text}{space}{fence}"


def escape_latex(text: str) -> str:
    """Text of one line for LaTeX, without commands, in a row of a table or outside of it."""
    escaped = escape_control(text).translate(_LATEX)
    return f"{{}}{escaped}" if escaped[:1] in ("[", "*") else escaped  # or it were an argument of the line break before


def escape_html(text: str) -> str:
    """Text of one line for HTML."""
    return html.escape(escape_control(text))


def escape_csv(text: str) -> str:
    """A text cell that no spreadsheet takes for a formula: those get an apostrophe in front. Numbers pass as they are;
    quotes and commas are the CSV writer's concern."""
    text = escape_control(text)
    return f"'{text}" if text.lstrip()[:1] in tuple("=+-@") and text.strip() not in ("", "-") else text


def as_yaml(text: str) -> str:
    """A scalar of YAML that is this text: plain where that is safe, else in quotes."""
    plain = _PLAIN_YAML.fullmatch(text) and text.lower() not in _YAML_WORDS
    return text if plain else json.dumps(text)


def as_keyword_arguments(arguments: dict[str, Any]) -> str:
    """Python source of one line: what stands in the brackets of a call, from names and values out of JSON."""
    named = {name: value for name, value in arguments.items() if name.isidentifier() and not keyword.iskeyword(name)}
    parts = [f"{name}={value!a}" for name, value in named.items()]
    if odd := {name: value for name, value in arguments.items() if name not in named}:
        parts.append(f"**{odd!a}")
    return ", ".join(parts)


def dump_json(content: Any, indent: int | None = None) -> str:
    """JSON text; a number that is not finite, which JSON does not have, is null."""
    return json.dumps(_without_infinite(content), indent=indent, allow_nan=False)


def _without_infinite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {key: _without_infinite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_infinite(value) for value in content]
    return content
