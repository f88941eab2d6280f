"""Text from data in each format: read back by another reader of the format, it is the same text and nothing more."""

import ast
import csv
import html
import io
import json
import re

import pytest
import yaml

from maskbench.runtime.escaping import (
    as_keyword_arguments,
    as_yaml,
    code_span,
    dump_json,
    escape_control,
    escape_csv,
    escape_html,
    escape_latex,
    escape_markdown,
    print_message,
)

HOSTILE = [
    "plain", "embed_dim 128, [4, never], p < 0.001", "", "a|b", "a\\|b", "<script>alert(1)</script>", "&lt;b&gt;",
    "[x](javascript:alert(1))", "![x][y]", "`code`", "``two", "**bold**", "_em_", "$x^2$", r"\input{/etc/passwd}",
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1+1", " =1+1", '"quoted", and ,commas', "line\nbreak", "\r\n",
    "\x1b[31mred\x1b[0m", "\x07\x08\x7f\x9b", "abc\u202efdp.exe", "\u2028", "yes", "null", "1.5",
    "- item", "key: value", "# comment",
    "{{ 7 * 7 }}", "%", "~^#&{}", "[at the beginning", "*star", "café 文字", "\ud800", "--- !!python/object:os.system",
]  # fmt: skip
VISIBLE = [text for text in HOSTILE if escape_control(text) == text]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_format_lets_control_characters_or_line_breaks_through(text: str) -> None:
    for escape in (escape_control, escape_markdown, code_span, escape_latex, escape_csv, escape_html):
        escaped = escape(text)
        assert re.sub(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", "", escaped) == "", escape.__name__
        escaped.encode()


@pytest.mark.parametrize("text", VISIBLE, ids=ascii)
def test_markdown_shows_the_text_as_it_is(text: str) -> None:
    """By CommonMark's rules: a backslash before punctuation is that character; entities are one; the rest is itself."""
    escaped = escape_markdown(text)
    cells = re.split(r"(?<!\\)(?:\\\\)*\|", escaped)
    assert len(cells) == 1, "it stays in one cell"
    assert not re.search(r"(?<!\\)(\\\\)*<[A-Za-z/!?]", escaped), "no HTML"
    assert not re.search(r"\][(\[:]", escaped), "no link"
    shown = html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", escaped))
    assert shown == text


@pytest.mark.parametrize("text", VISIBLE, ids=ascii)
def test_markdown_code_ends_with_its_own_fence(text: str) -> None:
    fence, inner = re.fullmatch(r"(`+)(.*?)\1", code_span(text)).groups()  # type: ignore[union-attr]
    assert fence not in re.findall("`+", inner)
    assert inner.strip() == text.strip()


@pytest.mark.parametrize("text", VISIBLE, ids=ascii)
def test_csv_has_no_formulas(text: str) -> None:
    buffer = io.StringIO()
    csv.writer(buffer).writerow([escape_csv(text), 1.5])
    ((cell, number),) = csv.reader(io.StringIO(buffer.getvalue()))
    assert number == "1.5" and cell.lstrip()[:1] not in tuple("=+-@") and cell.removeprefix("'") == text


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_yaml_and_python_and_json_have_one_value(text: str) -> None:
    if text != "\ud800":  # which is no Unicode text
        assert yaml.safe_load(f"- {as_yaml(text)}") == [text]
    call = ast.parse(f"f({as_keyword_arguments({text: text, 'depth': 2})})", mode="eval").body
    assert isinstance(call, ast.Call) and not call.args
    named = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg is not None}
    for word in call.keywords:
        named |= ast.literal_eval(word.value) if word.arg is None else {}
    assert named == {text: text, "depth": 2}
    assert json.loads(dump_json({text: [text]})) == {text: [text]}
    html_text = escape_html(text)
    assert "<" not in html_text and html.unescape(html_text) == escape_control(text)


def test_latex_has_no_commands_but_those_of_the_escapes() -> None:
    assert escape_latex(r"\input{x}_$&%#~^") == (
        r"\textbackslash{}input\{x\}\_\$\&\%\#\textasciitilde{}\textasciicircum{}"
    )
    assert escape_latex("[1, 2]") == "{}[1, 2]" and escape_latex("4 [1, 2]") == "4 [1, 2]"
    assert escape_latex("a\nb") == r"a\textbackslash{}nb"


def test_numbers_that_are_not_finite_are_null() -> None:
    text = dump_json({"a": [float("inf"), -float("inf"), float("nan"), 0.5], "b": (1, "NaN")}, indent=1)
    assert json.loads(text) == {"a": [None, None, None, 0.5], "b": [1, "NaN"]}


def test_messages_are_one_visible_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_message("skipped \x1b[2J\x1b[31mrun\nmaskbench: all is well")
    assert capsys.readouterr().err == "maskbench: skipped \\x1b[2J\\x1b[31mrun maskbench: all is well\n"
