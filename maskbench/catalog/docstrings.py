"""What a component's docstring says, in parts: summary, algorithm, paper, deviations, parameters."""

import inspect
import re
from dataclasses import dataclass

CITATION = re.compile(r"(.*?(?:arXiv \d{4}\.\d{5}|\(no arXiv version\))(?: \([^)]*\))?)([.:]?)(?: |$)")
DEVIATIONS = re.compile(r"\b(?:Deviations?: |Deviations?(?=, )|No deviation known)")
ATTRIBUTE = re.compile(r"^    (\w+): (.+?)(?=^    \w|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Description:
    """The parts of a docstring, each without line breaks; empty where it is silent.

    Attributes:
        summary: The first paragraph.
        details: All other paragraphs, without the parameters.
        paper: The citation.
        algorithm: What is done, without the citation and the deviations.
        deviations: How it differs from the paper or its reference code.
        parameters: What each parameter means, by name.
    """

    summary: str
    details: str
    paper: str
    algorithm: str
    deviations: str
    parameters: dict[str, str]


def describe(cls: type) -> Description:
    """The parts of the docstring of `cls`; what variants have in common comes from a base class of the same module."""
    own, parameters = _split_attributes(cls)
    base = cls.__mro__[1]
    shared: list[str] = []
    if base.__module__ == cls.__module__ and base.__doc__ not in (None, cls.__doc__):
        base_paragraphs, base_parameters = _split_attributes(base)
        shared, parameters = base_paragraphs[1:], {**base_parameters, **parameters}
    summary, paragraphs = (own[0] if own else ""), [*own[1:], *shared]
    paper, algorithm, deviations = "", [], []
    for paragraph in paragraphs:
        citation = CITATION.match(paragraph)
        if citation and not paper:
            paper = citation[1]
            paragraph = paragraph[citation.end() :] if citation[2] else paragraph
        steps, difference = _split_deviations(paragraph)
        algorithm.append(steps)
        deviations.append(difference)
    return Description(summary, " ".join(paragraphs), paper, _join(algorithm), _join(deviations), parameters)


def _split_attributes(cls: type) -> tuple[list[str], dict[str, str]]:
    """Paragraphs, each in one line, and the parameters of the section "Attributes:"."""
    text, _, section = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    parameters = {name: " ".join(meaning.split()) for name, meaning in ATTRIBUTE.findall(section)}
    return [paragraph for paragraph in paragraphs if paragraph], parameters


def _split_deviations(paragraph: str) -> tuple[str, str]:
    start = DEVIATIONS.search(paragraph)
    if start is None:
        return paragraph, ""
    difference = re.sub("^Deviations?: ", "", paragraph[start.start() :])
    return paragraph[: start.start()].strip(), difference


def _join(sentences: list[str]) -> str:
    return " ".join(sentence[:1].upper() + sentence[1:] for sentence in sentences if sentence)
