"""The README's prose: it answers what was asked, its picture is true, its links lead somewhere."""

import json
import re

import paste
import pytest
import torch
from conftest import ROOT

import common
import task1_greedy
import task2_sampling
import task3_temperature
import task4_nucleus
import task5_beam_search

README = (ROOT / "README.md").read_text(encoding="utf-8")
QUESTIONS = {  # the assignment's own words
    "1": [
        "если запустить алгоритм несколько раз, то будут ли различаться генерации?",
        "какие есть проблемы с таким подходом к генерации в случае с генерацией сказки и в случае с генерацией JSON?",
    ],
    "3": [
        "как отличаются генерации с температурами: `0.001`, `0.1`, `0.5`, `1.0`, `10.0`?",
        "Есть ли какая-то закономерность при уменьшении/увеличении температуры?",
        "Для каких задач какая температура лучше?",
    ],
    "4": [
        "как отличаются генерации с 1) `temperature=1`, `top_p=0.9`; 2) `temperature=1`, `top_p=0.15`; 3) `temperature=0.5`, `top_p=0.9`, 4) `temperature=0.5`, `top_p=0.15`?",
        "Помог ли nucleus sampling исправить какие-то проблемы, которые были при простом сэмплировании с температурой?",
    ],
    "5": [
        "как отличаются результаты с 1) `num_beams=1`, `length_penalty=1.0`; 2) `num_beams=4`, `length_penalty=1.0`; 3) `num_beams=4`, `length_penalty=0.5`; 4) `num_beams=4`, `length_penalty=2.0`; 5) `num_beams=8`, `length_penalty=1.0`?",
        "Есть ли какая-то закономерность при увеличении/уменьшении `num_beams` и `length_penalty`?",
        "Помог ли текущий способ исправить проблемы, которые возникли с Greedy Decoding?",
        "Для какого рода задач beam search подходит больше, чем nucleus sampling?",
    ],
}
QUESTIONS["2"] = QUESTIONS["1"]
PASTED = re.compile(r"<!-- begin outputs/(\S+) -->.*?<!-- end outputs/\1 -->", re.DOTALL)
PROSE = paste.OBSERVED.sub("", PASTED.sub("", README))


@pytest.mark.parametrize("number", QUESTIONS)
def test_every_question_stands_in_its_section(number):
    section = re.search(rf"^## {number}\. .*?(?=^## )", PROSE, re.DOTALL | re.MULTILINE)[0]
    words = " ".join(section.split()).lower()
    for question in QUESTIONS[number]:
        assert question.lower() in words


def test_links_lead_to_files_and_headings():
    targets = re.findall(r"\]\(([^):]+)\)", PROSE)
    headings = re.findall(r"^#+ (.*)$", PROSE, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
    assert len(targets) >= 8
    for target in targets:
        assert target in anchors or (ROOT / target).is_file(), target


def test_the_right_answer_is_the_scripts():
    copies = re.findall(r"`({.*?})`", README.partition("<!-- glance -->")[0], re.DOTALL)
    assert [json.loads(copy) for copy in copies] == [common.RIGHT_ANSWER]


TASKS = [task1_greedy, task2_sampling, task3_temperature, task4_nucleus, task5_beam_search]
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
        assert row[1:] == [common.probability_cell(column, token) for column in drawn_from]
    kept = [prob for prob, cut in zip(probs, drawn_from[-1], strict=True) if cut > 0]
    assert f"keeps the first three tokens, {sum(kept):.2f};" in README
    assert len(kept) == 3 and sum(kept) < 0.9 <= sum(probs[:4])  # the paper keeps a fourth
    assert rows[3][0] == "burrow"


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
