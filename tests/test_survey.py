"""What the survey counts."""

import sys
from unittest.mock import Mock

import pytest
import survey
import transformers

import common
import task1_greedy
import task3_temperature
import task4_nucleus
from common import Text

RIGHT = '{"contractor": "Mike", "sum": 100.50, "currency": "RUB"}'


@pytest.mark.parametrize(
    ("story", "count"), [([1, 2, 3], 3), ([4, 2, 3], 0), ([1, 2], 2), ([1, 2, 4, 3], 2), ([], 0)]
)
def test_what_a_story_has_in_common_with_greedys(story, count):
    assert survey.in_common(Text(tokens=story), Text(tokens=[1, 2, 3])) == count


def test_each_row_counts_the_texts_of_its_own_setting(monkeypatch, capsys, tmp_path, tiny_folder):
    """A story's length tells its setting here, so a row's median must be told by its label."""
    folder = tiny_folder(letters=None)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    json_prompt = tokenizer(common.PROMPTS["json"]).input_ids
    fenced = f"```json\n{RIGHT}\n```"

    def text(prompt, setting, seed):
        if prompt == json_prompt:  # five of each
            return Text(setting, tokenizer([RIGHT, "[1]", fenced, "no"][seed // 5]).input_ids)
        temperature, top_p = setting if isinstance(setting, tuple) else (setting, 0)
        tokens = [7] * round(1000 * temperature + 100 * top_p)
        if seed < 10:
            tokens[-1] = common.EOS
        return Text(setting, tokens)

    def sample(_model, prompt, settings, seeds, limit):
        assert (seeds, limit) == (range(20), 9)
        return [text(prompt, setting, seed) for seed in seeds for setting in settings]

    def greedy(_model, prompt, limit):
        assert prompt != json_prompt and limit == 9
        return Text(tokens=[7] * 300)

    monkeypatch.setattr(task1_greedy, "greedy", greedy)
    monkeypatch.setattr(task3_temperature, "sample", sample)
    monkeypatch.setattr(task4_nucleus, "sample", sample)
    monkeypatch.setattr(common, "OUTPUTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["survey.py", "--model", folder, "--max-new-tokens", "9"])
    capsys.readouterr()  # what making a tiny model has printed
    survey.main()

    shown = capsys.readouterr().out
    assert (tmp_path / "survey.md").read_text(encoding="utf-8") == shown
    first, about, table, _legend = shown.strip().split("\n\n")
    assert first.startswith("Model `")
    assert about.startswith("20 texts per setting and prompt, one for each seed from 0 to 19. ")
    header, _, *rows = [line[2:-2].split(" | ") for line in table.split("\n")]
    assert len(rows) == 9
    for row in rows:
        label, *counts = row
        numbers = [float(part.partition("=")[2]) for part in label.split(", ")]
        length = round(1000 * numbers[0] + 100 * sum(numbers[1:]))
        repeats = 20 if length > 41 else 0
        # Half of the stories end by EOS instead of a token that may be greedy's.
        like_greedy = f"{min(length - 0.5, 300):g}"
        stories = ["2", "10", str(repeats), like_greedy, str(length)]
        assert counts == [*stories, "4", "10", "5"]  # a fenced JSON is none of these
    assert header[1:] == [
        *("different stories", "ended by EOS", "repeats", "like greedy", "median tokens"),
        *("different JSONs", "valid", "right"),
    ]

    monkeypatch.setattr(task4_nucleus, "sample", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        survey.main()
    assert capsys.readouterr().err.count("\n| temperature=") == 5  # task 3's rows are not lost
