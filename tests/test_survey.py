"""What the survey counts."""

import sys
from unittest.mock import Mock

import pytest
import survey
import transformers

import common
import task3_temperature
import task4_nucleus
from common import Text

RIGHT = '{"contractor": "Mike", "sum": 100.50, "currency": "RUB"}'


def test_each_row_counts_the_texts_of_its_own_setting(monkeypatch, capsys, tmp_path, tiny_folder):
    """A story's length tells its setting here, so a row's median must be told by its label."""
    folder = tiny_folder(letters=None)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    json_prompt = tokenizer(common.PROMPTS["json"]).input_ids
    generators = set()

    def sample(_model, prompt, settings, generator, limit):
        generators.add(generator)
        assert limit == 9
        assert len(settings) == 20 * len(set(settings))
        texts = []
        for number, setting in enumerate(settings):
            temperature, top_p = setting if isinstance(setting, tuple) else (setting, 0)
            tokens = [7] * round(1000 * temperature + 100 * top_p)
            if prompt == json_prompt:  # a quarter of each
                group = number // (len(settings) // 4)
                tokens = tokenizer([RIGHT, "[1]", RIGHT, "no"][group]).input_ids
            elif number < len(settings) // 2:
                tokens[-1] = common.EOS
            texts.append(Text(setting, tokens=tokens))
        return texts

    monkeypatch.setattr(task3_temperature, "sample", sample)
    monkeypatch.setattr(task4_nucleus, "sample", sample)
    monkeypatch.setattr(common, "OUTPUTS", tmp_path)
    options = ["--model", folder, "--max-new-tokens", "9", "--seed", "5"]
    monkeypatch.setattr(sys, "argv", ["survey.py", *options])
    capsys.readouterr()  # what making a tiny model has printed
    survey.main()

    shown = capsys.readouterr().out
    assert (tmp_path / "survey.md").read_text(encoding="utf-8") == shown
    first, count, table, _legend = shown.strip().split("\n\n")
    assert first.startswith("Model `") and "seed 5" in first
    assert count == "20 texts per setting and prompt."
    header, _, *rows = [line[2:-2].split(" | ") for line in table.split("\n")]
    assert len(rows) == 9
    for row in rows:
        label, *counts = row
        numbers = [float(part.partition("=")[2]) for part in label.split(", ")]
        length = round(1000 * numbers[0] + 100 * sum(numbers[1:]))
        repeats = 20 if length > 41 else 0
        assert counts == ["2", "10", str(repeats), str(length), "3", "15", "10"]
    assert header[1:] == [
        *("different stories", "ended by EOS", "repeats", "median tokens"),
        *("different JSONs", "valid", "right"),
    ]
    assert [generator.initial_seed() for generator in generators] == [5]

    monkeypatch.setattr(task4_nucleus, "sample", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        survey.main()
    assert capsys.readouterr().err.count("\n| temperature=") == 5  # task 3's rows are not lost
