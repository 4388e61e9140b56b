"""What the survey counts."""

import sys
from types import SimpleNamespace

import survey

import common
import task3_temperature
import task4_nucleus
from common import Text

EOS = common.EOS


def test_the_counts_of_stories():
    stories = [Text(tokens=[1, 2, EOS])] * 2 + [Text(tokens=[7] * 41), Text(tokens=[8] * 40)]
    assert survey.story_counts(stories) == {
        "different stories": 3,
        "ended by EOS": 2,
        "loops": 1,
        "median tokens": "21.5",
    }


def test_the_counts_of_jsons():
    answers = ['{"contractor": "Mike", "sum": 100.50, "currency": "RUB"}', "[1]", "no"]
    tokenizer = SimpleNamespace(decode=lambda tokens: answers[tokens[0]])
    texts = [Text(tokens=[token, EOS]) for token in (0, 1, 2, 0)]
    counts = survey.json_counts(texts, tokenizer)
    assert counts == {"different JSONs": 3, "valid": 3, "right": 2}


def test_each_row_counts_the_texts_of_its_own_setting(monkeypatch, capsys, tmp_path, tiny_folder):
    """A text's length tells its setting here, so a row's median must be told by its label."""
    generators = set()

    def sample(_model, _prompt, settings, generator, limit):
        generators.add(generator)
        assert limit == 9
        assert settings.count(settings[0]) == 20
        texts = []
        for setting in settings:
            temperature, top_p = setting if isinstance(setting, tuple) else (setting, 0)
            texts.append(Text(setting, tokens=[1] * round(1000 * temperature + 100 * top_p)))
        return texts

    monkeypatch.setattr(task3_temperature, "sample", sample)
    monkeypatch.setattr(task4_nucleus, "sample", sample)
    monkeypatch.setattr(common, "OUTPUTS", tmp_path)
    options = ["--model", tiny_folder(letters=None), "--max-new-tokens", "9", "--seed", "5"]
    monkeypatch.setattr(sys, "argv", ["survey.py", *options])
    capsys.readouterr()  # what making a tiny model has printed
    survey.main()

    shown = capsys.readouterr().out
    assert (tmp_path / "survey.md").read_text(encoding="utf-8") == shown
    first, count, table, _words = shown.strip().split("\n\n")
    assert first.startswith("Model `") and "seed 5" in first
    assert count == "20 texts per setting and prompt."
    header, _, *rows = [line[2:-2].split(" | ") for line in table.split("\n")]
    assert len(rows) == 9
    for row in rows:
        counts = dict(zip(header, row, strict=True))
        numbers = [float(part.partition("=")[2]) for part in counts["setting"].split(", ")]
        median = 1000 * numbers[0] + 100 * sum(numbers[1:])
        assert counts["median tokens"] == f"{median:g}"
        assert counts["different JSONs"] == "1"
    assert [generator.initial_seed() for generator in generators] == [5]
