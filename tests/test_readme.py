"""The README shows what outputs/ holds, and its links lead where they say."""

import re

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
OUTPUTS = sorted(path.name for path in (ROOT / "outputs").glob("*.md"))


def test_outputs_are_the_scripts():
    assert OUTPUTS == sorted(f"{path.stem}.md" for path in ROOT.glob("task*.py"))


@pytest.mark.parametrize("name", OUTPUTS)
def test_readme_holds_the_outputs(name):
    begin, end = f"<!-- begin outputs/{name} -->\n\n", f"<!-- end outputs/{name} -->\n"
    assert README.count(begin) == README.count(end) == 1
    block = README.partition(begin)[2].partition(end)[0].encode()
    same = block == (ROOT / "outputs" / name).read_bytes()
    assert same, f"paste outputs/{name} between its begin and end lines in README.md"


def test_links_to_code_lead_to_what_they_quote():
    links = re.findall(r"\[`([^\]]+)`\]\((\w+\.py)#L(\d+)\)", README)
    assert len(links) >= 5
    for quoted, name, line in links:
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        assert lines[int(line) - 1].strip().startswith(quoted), (name, line)


def test_links_to_files_lead_to_files():
    for target in re.findall(r"\]\(([\w./]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_asked_for_text_is_there(name):
    asked = {"task1": 2, "task2": 6, "task3": 10, "task4": 8, "task5": 10}[name[:5]]
    shown = (ROOT / "outputs" / name).read_text(encoding="utf-8")
    assert len(re.findall(r"^`{3,}text$", shown, re.MULTILINE)) == asked
    assert len(re.findall(r": \d+ tokens, ended by (?:EOS|limit)", shown)) == asked
