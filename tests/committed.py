"""What must hold of the committed page and outputs, and need not of a user's own.

    python -m pytest tests/committed.py

pytest does not collect this file by itself: who runs the scripts has other texts, and a page that
asks for new lists.
"""

import re

import paste
from conftest import ROOT, TEXTS, shown_texts

README = (ROOT / "README.md").read_text(encoding="utf-8")
OUTPUTS = {name: (ROOT / "outputs" / f"{name}.md").read_text(encoding="utf-8") for name in TEXTS}
SURVEY = (ROOT / "outputs" / "survey.md").read_text(encoding="utf-8")


def test_paste_changes_nothing():
    outputs = {f"{name}.md": output for name, output in OUTPUTS.items()}
    assert paste.paste(README, outputs, SURVEY) == README


def test_every_text_that_the_assignment_asks_for_is_there_at_full_length():
    for name, output in OUTPUTS.items():
        assert shown_texts(output) == TEXTS[name]
    for output in (*OUTPUTS.values(), SURVEY):
        first, _, _ = output.partition("\n")
        assert "tokens a text" not in first
        assert "seed" not in first or "; seed 0;" in first


def test_the_survey_is_of_the_same_model_and_whole():
    assert paste.writer("survey.md", SURVEY) == paste.writer("", OUTPUTS["task1_greedy"])
    assert SURVEY.count("\n| temperature=") == 9
    assert "\n20 texts per setting and prompt.\n" in SURVEY


def test_every_setting_stands_once_at_a_glance():
    glance = README.partition("<!-- glance -->\n\n")[2].partition("\n\n<!-- /glance -->")[0]
    _head, _line, *rows = glance.split("\n")
    assert len(rows) == 18
    assert len({row.split(" | ")[0] for row in rows}) == 18


def test_every_list_is_written_in_both_languages():
    lists = [match["list"] for match in paste.OBSERVED.finditer(README)]
    assert len(lists) == 6
    for written in lists:
        assert "<!--" not in written
        english, heading, russian = written.partition("**Что показывают эти тексты**\n")
        assert heading
        bullets = [re.findall("^- ", language, re.MULTILINE) for language in (english, russian)]
        assert 1 <= len(bullets[0]) == len(bullets[1]) <= 3
