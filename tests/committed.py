"""What must hold of the committed page and outputs, and need not of a user's own.

    python -m pytest tests/committed.py

pytest does not collect this file by itself: who runs the scripts has other texts, and a page that
asks for new lists.
"""

import json
import re

import paste
import pytest
import torch
from conftest import ROOT, TEXTS, shown_texts

import common
import task1_greedy
import task2_sampling
import task3_temperature
import task4_nucleus
import task5_beam_search

TASKS = [task1_greedy, task2_sampling, task3_temperature, task4_nucleus, task5_beam_search]
NAMES = [*(f"{name}.md" for name in TEXTS), paste.SURVEY]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OUTPUTS = {name: (ROOT / "outputs" / name).read_text(encoding="utf-8") for name in NAMES}
PROSE = re.sub(r"<!-- begin (\S+) -->.*?<!-- end \1 -->", "", README, flags=re.DOTALL)
PROSE = paste.OBSERVED.sub("", PROSE)
UNFOLDED = re.sub(r"<details>.*?</details>", "", PROSE, flags=re.DOTALL)

RUSSIAN = {  # the assignment's own words
    2: [
        "если запустить алгоритм несколько раз, то будут ли различаться генерации?",
        "какие есть проблемы с таким подходом к генерации в случае с генерацией сказки и в случае с генерацией JSON?",  # noqa: E501
    ],
    3: [
        "как отличаются генерации с температурами: `0.001`, `0.1`, `0.5`, `1.0`, `10.0`?",
        "Есть ли какая-то закономерность при уменьшении/увеличении температуры?",
        "Для каких задач какая температура лучше?",
    ],
    4: [
        "как отличаются генерации с 1) `temperature=1`, `top_p=0.9`; 2) `temperature=1`, `top_p=0.15`; 3) `temperature=0.5`, `top_p=0.9`, 4) `temperature=0.5`, `top_p=0.15`?",  # noqa: E501
        "Помог ли nucleus sampling исправить какие-то проблемы, которые были при простом сэмплировании с температурой?",  # noqa: E501
    ],
    5: [
        "как отличаются результаты с 1) `num_beams=1`, `length_penalty=1.0`; 2) `num_beams=4`, `length_penalty=1.0`; 3) `num_beams=4`, `length_penalty=0.5`; 4) `num_beams=4`, `length_penalty=2.0`; 5) `num_beams=8`, `length_penalty=1.0`?",  # noqa: E501
        "Есть ли какая-то закономерность при увеличении/уменьшении `num_beams` и `length_penalty`?",
        "Помог ли текущий способ исправить проблемы, которые возникли с Greedy Decoding?",
        "Для какого рода задач beam search подходит больше, чем nucleus sampling?",
    ],
}
RUSSIAN[1] = RUSSIAN[2]


def test_paste_changes_nothing():
    assert paste.paste(README, OUTPUTS) == README


def test_every_text_that_the_assignment_asks_for_is_there_at_full_length():
    for name, count in TEXTS.items():
        assert shown_texts(OUTPUTS[f"{name}.md"]) == count
    for output in OUTPUTS.values():
        first, _, _ = output.partition("\n")
        assert first.startswith("Model `") and "at most 1000 tokens a text" in first
        assert "seed" not in first or "; seed 0;" in first
    assert OUTPUTS[paste.SURVEY].count("\n| temperature=") == 9
    assert "\n20 texts per setting and prompt.\n" in OUTPUTS[paste.SURVEY]


def test_every_setting_stands_once_in_the_table_at_the_top():
    table = README.partition("<!-- begin table -->\n\n")[2].partition("\n\n<!-- end")[0]
    _head, _line, *rows = table.split("\n")
    assert len(rows) == len({row.split(" | ")[0] for row in rows}) == 18


def questions(heading):
    """The questions, in bold, of the section with that heading, outside any fold."""
    section = re.search(rf"^{heading} .*?(?=^##)", UNFOLDED, re.DOTALL | re.MULTILINE)[0]
    return re.findall(r"^\*\*([^*]+\?)\*\*", section, re.MULTILINE)


@pytest.mark.parametrize("number", RUSSIAN)
def test_every_question_stands_in_its_section_outside_any_fold(number):
    asked = [" ".join(question.split()).lower() for question in questions(rf"## Задача {number}\.")]
    assert asked == [question.lower() for question in RUSSIAN[number]]
    assert len(questions(rf"### Task {number}\.")) == len(asked)


def test_no_list_is_hidden_and_each_stands_in_both_languages():
    lists = paste.OBSERVED.findall(README)
    assert not any("<!--" in written for _, written in lists)
    in_both = [names for names, written in lists if "\\\n" in written]  # a line break between them
    russian = [names for names, written in lists if written.startswith("**Что показывают")]
    english = [names for names, written in lists if written.startswith("**What these texts")]
    assert in_both == [" ".join(NAMES[:-1]), *NAMES[:-1]]  # the note, and a find a task
    assert russian == english and len(russian) == 5
    assert len(lists) == 16


def test_the_commands_stand_at_the_top_each_on_its_line():
    top = README.split("\n")[:45]
    begin = "python -m venv .venv && source .venv/bin/activate && pip install -r "
    assert f"{begin}requirements.txt && python task1_greedy.py" in top
    assert f"{begin}tests/requirements.txt && python -m pytest" in top
    without_hub = 'python task1_greedy.py --model "$(python tests/offline_model.py)"'
    assert f"{begin}tests/requirements.txt && {without_hub}" in top


def test_links_lead_to_files_and_headings():
    targets = re.findall(r"\]\(([^):]+)\)", README)
    headings = re.findall(r"^#+ (.*)$", PROSE, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
    assert len(targets) >= 15 and len(anchors) == len(headings)
    for target in targets:
        assert target in anchors or (ROOT / target).is_file(), target


def test_the_right_answer_is_the_scripts():
    copies = re.findall(r"`({.*?})`", PROSE, re.DOTALL)
    assert [json.loads(copy) for copy in copies] == [common.RIGHT_ANSWER]


PICTURE = re.search(r"<!-- picture -->\n```text\n(.*?)\n```", README, re.DOTALL)[1]


@pytest.fixture
def one_step(monkeypatch):
    """A function that sets the distributions of the tasks' steps: {tokens so far: probs}."""

    def set_steps(table):
        def step(_context, texts):
            return torch.tensor([table[tuple(text.tokens)] for text in texts]).log()

        for task in TASKS:
            monkeypatch.setattr(task, "Context", lambda *_: None)
            monkeypatch.setattr(task, "step", step)

    return set_steps


def cell(prob):
    """A probability in the picture: two significant digits, and a bar of at most five blocks."""
    digits = f"{prob:#.2g}" if 0 < prob < 1 else f"{prob:.0f}"
    blocks, eighths = divmod(round(5 * 8 * float(prob)), 8)
    return f"{digits} {'█' * blocks}{' ▏▎▍▌▋▊▉'[eighths]}".rstrip()


def test_the_pictures_distributions(monkeypatch, one_step):
    """Each way's own loop runs one step on the picture's distribution."""
    columns, _, _ = PICTURE.partition("\n\n")
    names, *rows = [re.split(r"  +", line.strip()) for line in columns.split("\n")]
    assert names == ["sampling", "greedy", "T = 0.5", "T = 2", "top_p = 0.9"]
    probs = [float(row[1].split()[0]) for row in rows]
    assert sum(probs) == pytest.approx(1)
    one_step({(): probs})
    drawn_from = []

    def draw(probs, _generator):
        drawn_from.extend(probs)
        return probs.argmax(-1)

    for task in TASKS[1:4]:
        monkeypatch.setattr(task, "draw", draw)
    task2_sampling.sample(None, [0], 1, None, 1)
    greedy = torch.zeros(len(probs))
    greedy[task1_greedy.greedy(None, [0], 1).tokens] = 1
    drawn_from.append(greedy)
    task3_temperature.sample(None, [0], [0.5, 2.0], None, 1)
    task4_nucleus.sample(None, [0], [(1.0, 0.9)], None, 1)
    for token, row in enumerate(rows):
        assert row[1:] == [cell(column[token]) for column in drawn_from]
    kept = [prob for prob, cut in zip(probs, drawn_from[-1], strict=True) if cut > 0]
    assert len(kept) == 3 and sum(kept) < 0.9 <= sum(probs[:4])  # the paper keeps a fourth
    assert f"{sum(kept):.2f}" == "0.84" and rows[3][0] == "burrow"
    assert PROSE.count("0.84") == PROSE.count("`burrow`") == 2  # in each language's caption


def test_the_pictures_two_beginnings(one_step):
    """The assignment's example: the products, and which of them greedy and two beams find."""
    lines = re.findall(r"─ (\S+) ── (\S+)   (\S+) × (\S+) = (\S+)   (.*)", PICTURE)
    (first, second) = [[float(number) for number in line[:5]] for line in lines]
    for a, b, c, d, product in (first, second):
        assert (a, b) == (c, d)
        assert a * b == pytest.approx(product)
    table = {(): [first[0], second[0], 1 - first[0] - second[0]]}
    for token, (_, prob, *_) in enumerate((first, second)):
        table[(token,)] = [prob] + [(1 - prob) / 10] * 10
    one_step(table)
    found = {"greedy": task1_greedy.greedy(None, [0], 2)}
    found["two beams"] = max(task5_beam_search.beam_search(None, [0], 2, 2), key=lambda t: t.score)
    assert found["greedy"].tokens == [0, 0] and lines[0][5].startswith("greedy takes")
    assert found["two beams"].tokens == [1, 0] and lines[1][5].startswith("two beams")
