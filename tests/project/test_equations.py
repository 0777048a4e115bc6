"""docs/equations.md has all equations and questions of the survey slides; what it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import NamedTuple

import pytest
import yaml
from jsonschema import Draft202012Validator

from stylemodels.method import Method
from stylemodels.methods import all_methods
from stylemodels.settings import json_schema

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/equations.md"

# What the slides have of each paper, in their order: the number of an equation, "-" for one without, "Q" a question.
# Of 03 they have figures alone; the three are their steps.
SLIDES = {
    "01": "- 1 2 3 4 5 Q",
    "02": "- - 2 3 4 5 - 7 8 9 11 Q",
    "03": "- - -",
    "04": "- 11 12 Q",
    "05": "- 5 6",
    "06": "- 7 8 - Q",
    "07": "- - 7 Q",
    "08": "- 5 6 Q",
    "09": "- - 3",
    "10": "- 7 8 9",
    "11": "12 - 10 -",
    "12": "- - 8 9 10",
}
SECTION = re.compile(r"^## (\d\d) .+\n\n(.+)$", re.MULTILINE)
ENTRY = re.compile(r"^- \*\*(\d\d)\.(\d+)\*\* (?:\((\d+)\) |(Q)\. )?", re.MULTILINE)
FUNCTION = re.compile(r"`(stylemodels(?:\.\w+)+)`")
TEST = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")
SETTING = re.compile(r"`(\w+): ([^`]+)`")


class Entry(NamedTuple):
    number: str
    shown: str  # as in SLIDES
    text: str


def sections() -> dict[str, str]:
    """Number -> text, from the line with the authors on."""
    _, *parts = re.split(r"^(?=## )", PAGE.read_text(), flags=re.MULTILINE)
    matches = [SECTION.match(part) for part in parts]
    assert all(matches)
    return {match[1]: match.string[match.start(2) :] for match in matches if match}


def entries(section: str) -> list[Entry]:
    text, starts = sections()[section], list(ENTRY.finditer(sections()[section]))
    ends = [match.start() for match in starts[1:]] + [len(text)]
    return [
        Entry(f"{match[1]}.{match[2]}", match[3] or match[4] or "-", text[match.end() : end].partition("\n\n")[0])
        for match, end in zip(starts, ends, strict=True)
    ]


def method_of(section: str) -> Method:
    named = re.search(r"Method `([\w-]+)`", sections()[section].partition("\n")[0])
    assert named, f"{section} does not say which method it is"
    return all_methods()[named[1]]


def accepts(method: Method, name: str, value: str) -> bool:
    """Whether a training or a drawing of the method can be told `name: value`."""
    forms = [json_schema(form) for task in method.tasks.values() for form in (task.Config, task.Controls)]
    known = [form["properties"][name] for form in forms if name in form["properties"]]
    return any(Draft202012Validator(schema).is_valid(yaml.safe_load(value)) for schema in known)


@cache
def named_tests(path: str) -> set[str]:
    """`test_x` and `TestGroup::test_y`."""
    found = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
    return found


def test_the_papers_are_those_of_the_slides_in_their_order():
    assert list(sections()) == list(SLIDES)


@pytest.mark.parametrize("section", SLIDES)
def test_a_section_has_every_equation_and_question_of_its_paper_in_their_order(section: str):
    found = entries(section)
    assert " ".join(entry.shown for entry in found) == SLIDES[section]
    assert [entry.number for entry in found] == [f"{section}.{n}" for n in range(1, len(found) + 1)]


@pytest.mark.parametrize("section", SLIDES)
def test_a_section_names_the_paper_that_its_method_names(section: str):
    assert method_of(section).paper in sections()[section].partition("\n")[0]


@pytest.mark.parametrize("section", SLIDES)
def test_an_equation_has_a_function_and_a_test_and_a_question_shows_its_answer(section: str):
    for number, shown, text in entries(section):
        assert TEST.search(text), number
        assert FUNCTION.search(text) if shown != "Q" else "  - seen: " in text, number


@pytest.mark.parametrize("section", SLIDES)
def test_functions_tests_and_settings_that_are_named_exist(section: str):
    text = sections()[section]
    for name in FUNCTION.findall(text):
        assert resolve_name(name) is not None, name
    for path, name in TEST.findall(text):
        assert name in named_tests(path), f"{path}::{name}"
    for name, value in SETTING.findall(text):
        assert accepts(method_of(section), name, value), f"{name}: {value}"


def test_the_head_of_the_page_says_what_checks_it():
    assert f"`{Path(__file__).relative_to(ROOT)}`" in PAGE.read_text()
