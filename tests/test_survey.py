"""What the survey counts."""

import runpy
import sys

import pytest
import survey
import torch
from conftest import ROOT

import common
import task3_temperature
import task4_nucleus
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


def test_each_row_counts_the_texts_of_its_own_setting(monkeypatch, capsys, tmp_path, tiny_folder):
    folder = tiny_folder(4, letters=None, scale=0.3)
    options = ["--model", folder, "--texts", "7", "--max-new-tokens", "9", "--seed", "5"]
    code, stdout, _ = run_survey(monkeypatch, capsys, tmp_path, *options)
    assert code == 0
    assert (tmp_path / "survey.md").read_text(encoding="utf-8") == stdout
    first, count, table = stdout.strip().split("\n\n")
    assert first.startswith("Model `") and "seed 5" in first
    assert count == "7 texts per setting and prompt."

    model, tokenizer = common.load(folder)
    generator = torch.Generator().manual_seed(5)
    rows = []
    for task, settings, label in (
        (task3_temperature, (0.001, 0.1, 0.5, 1.0, 10.0), "temperature={}".format),
        (
            task4_nucleus,
            ((1.0, 0.9), (1.0, 0.15), (0.5, 0.9), (0.5, 0.15)),
            lambda setting: "temperature={:g}, top_p={:g}".format(*setting),
        ),
    ):
        prompts = [tokenizer(input_text).input_ids for input_text in common.PROMPTS.values()]
        stories, answers = [
            task.sample(model, prompt, settings * 7, generator, 9) for prompt in prompts
        ]
        for number, setting in enumerate(settings):
            own_stories = stories[number :: len(settings)]
            own_answers = answers[number :: len(settings)]
            rows.append(
                {"setting": label(setting)}
                | survey.story_counts(own_stories)
                | survey.json_counts(own_answers, tokenizer)
            )
    assert table == common.table(rows)


@pytest.mark.parametrize("option", ["--texts", "--max-new-tokens"])
def test_bad_arguments_cost_nothing(monkeypatch, capsys, tmp_path, option):
    code, stdout, stderr = run_survey(monkeypatch, capsys, tmp_path, option, "0")
    assert (code, stdout, list(tmp_path.iterdir())) == (2, "", [])
    assert f"{option} must be at least 1" in stderr
