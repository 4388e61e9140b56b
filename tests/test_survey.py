"""What the survey counts."""

import re
import runpy
import sys

import pytest
import survey
from conftest import ROOT

import common
from common import Text

EOS = common.EOS


class Answers:
    """A tokenizer whose token i is the i-th answer."""

    def __init__(self, *answers):
        self.answers = answers

    def decode(self, tokens):
        (token,) = tokens
        return self.answers[token]


@pytest.mark.parametrize(
    ("tokens", "is_loop"),
    [
        ([], False),
        ([1, 2, 3], False),
        (list(range(100)), False),
        ([1, 2, 3, 4] * 2 + [5], False),  # of 6 sequences, one is repeated
        ([1] * 8, True),  # of 5, four are
        ([*range(20), *range(20)], False),  # of 37, 17 are
        ([*range(20), *range(20), *range(20)], True),  # of 57, 37 are
    ],
)
def test_what_is_a_loop(tokens, is_loop):
    assert survey.loops(Text(tokens=tokens)) == is_loop


def test_the_counts_of_stories():
    stories = [Text(tokens=[1, 2, EOS])] * 2 + [Text(tokens=[7] * 9), Text(tokens=[8] * 8)]
    assert survey.story_counts(stories) == {
        "different stories": 3,
        "ended by EOS": 2,
        "loops": 2,
        "median tokens": "5.5",
    }


def test_the_counts_of_jsons():
    right = '{"contractor": "Mike", "sum": 100.50, "currency": "RUB"}'
    answers = [Text(tokens=[token, EOS]) for token in (0, 1, 2, 0)]
    counts = survey.json_counts(answers, Answers(right, "[1]", "no"))
    assert counts == {"different JSONs": 3, "valid": 3, "right": 2}


def run_survey(monkeypatch, capsys, tmp_path, *arguments):
    """The script's exit code and what it printed."""
    monkeypatch.setattr(common, "OUTPUTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["survey.py", *arguments])
    capsys.readouterr()
    code = 0
    try:
        runpy.run_path(str(ROOT / "tests" / "survey.py"), run_name="__main__")
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def test_the_survey_has_a_row_per_setting_with_its_own_texts(
    monkeypatch, capsys, tmp_path, tiny_folder
):
    folder = tiny_folder(4, letters=None, scale=0.2)
    options = ["--model", folder, "--texts", "7", "--max-new-tokens", "5"]
    code, stdout, _ = run_survey(monkeypatch, capsys, tmp_path, *options)
    assert code == 0
    assert (tmp_path / "survey.md").read_text(encoding="utf-8") == stdout
    assert stdout.startswith("Model `") and "\n\n7 texts per setting and prompt.\n\n" in stdout
    rows = re.findall(
        r"^\| (temperature=.*?) \| (\d+) \| .* \| (\d+) \| \d+ \| \d+ \|$", stdout, re.MULTILINE
    )
    assert [label for label, _, _ in rows] == [
        "temperature=0.001",
        "temperature=0.1",
        "temperature=0.5",
        "temperature=1.0",
        "temperature=10.0",
        "temperature=1, top_p=0.9",
        "temperature=1, top_p=0.15",
        "temperature=0.5, top_p=0.9",
        "temperature=0.5, top_p=0.15",
    ]
    # As cold as greedy: all alike. Hot: all different.
    assert [rows[0][1:], rows[4][1:]] == [("1", "1"), ("7", "7")]


@pytest.mark.parametrize("option", ["--texts", "--max-new-tokens"])
def test_bad_arguments_cost_nothing(monkeypatch, capsys, tmp_path, option):
    code, stdout, stderr = run_survey(monkeypatch, capsys, tmp_path, option, "0")
    assert (code, stdout, list(tmp_path.iterdir())) == (2, "", [])
    assert "must be at least 1" in stderr
