"""What must hold of the committed page and outputs, and need not of a user's own.

    python -m pytest tests/committed.py

pytest does not collect this file by itself: after a user's own run the texts differ, and the page
asks for new lists.
"""

import json
import re

import paste
import pytest
from conftest import ROOT, TEXT_COUNTS, shown_texts

import common

NAMES = [*paste.TASKS, paste.COMPARE, paste.SURVEY]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OUTPUTS = {name: (ROOT / "outputs" / name).read_text(encoding="utf-8") for name in NAMES}
# The page without what is pasted, then also without lists of observations, then without folds.
WITHOUT_OUTPUTS = re.sub(r"<!-- begin (.+?) -->.*?<!-- end \1 -->", "", README, flags=re.DOTALL)
PROSE = paste.OBSERVED.sub("", WITHOUT_OUTPUTS)
FOLD = re.compile(r"<details>.*?</details>", re.DOTALL)
UNFOLDED = FOLD.sub("", PROSE)

QUESTIONS = {  # the assignment's own words
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
QUESTIONS[1] = QUESTIONS[2]


def test_paste_changes_nothing():
    assert paste.paste(README, OUTPUTS) == README


def test_every_text_that_the_assignment_asks_for_is_there_at_full_length():
    for name, count in zip(paste.TASKS, TEXT_COUNTS.values(), strict=True):
        output = OUTPUTS[name]
        table = paste.pieces_of(name, output, [])[f"{name} table"]
        assert shown_texts(output) == count
        assert len(table.splitlines()) == 2 + count // 2  # a header, its rule, a row per setting
    for output in OUTPUTS.values():
        first, _, _ = output.partition("\n")
        assert first.startswith("Model `") and "at most 1000 tokens a text" in first
    seeded = [name for name, output in OUTPUTS.items() if "; seed 0;" in output]
    assert seeded == [*paste.TASKS[1:4], paste.COMPARE]
    assert paste.of_one_run(OUTPUTS) == OUTPUTS
    assert OUTPUTS[paste.SURVEY].count("\n| temperature=") == 9
    assert "\n20 texts per setting and prompt, " in OUTPUTS[paste.SURVEY]


def questions(heading):
    """The questions, in bold, of the section with that heading, outside any fold."""
    section = re.search(rf"^{heading} .*?(?=^##)", UNFOLDED, re.DOTALL | re.MULTILINE)[0]
    return re.findall(r"^\*\*([^*]+\?)\*\*", section, re.MULTILINE)


@pytest.mark.parametrize("number", QUESTIONS)
def test_every_question_stands_in_its_section_outside_any_fold(number):
    asked = [" ".join(question.split()).lower() for question in questions(rf"## Задача {number}\.")]
    assert asked == [question.lower() for question in QUESTIONS[number]]
    assert len(questions(rf"### Task {number}\.")) == len(asked)


def test_no_list_is_hidden_and_both_languages_have_the_same():
    russian, english = map(paste.OBSERVED.findall, README.split("\n## In English\n"))
    assert not any("<!--" in written for _, written in russian + english)
    note, *others = [names for names, _ in russian]
    assert note == " ".join(NAMES)  # it says which model wrote the texts
    assert others == [names for names, _ in english]
    about = [names.split()[0] for names in others]
    assert about == [*paste.TASKS, paste.TASKS[0], *paste.TASKS, paste.COMPARE, paste.SURVEY]


def test_every_block_that_is_computed_stands_open():
    marks = re.findall("<!-- begin (.+) -->", FOLD.sub("", README))
    beams = paste.TASKS[-1]
    assert {f"{paste.COMPARE} {title}" for title in paste.COMPARE_TITLES} <= set(marks)
    assert {f"{beams} hedgehog, winners", f"{beams} json, winners"} <= set(marks)


def test_the_commands_are_whole():
    commands = README.replace("&& \\\n", "&& ").split("\n")
    begin = "python3 -m venv .venv && source .venv/bin/activate && pip install -r "
    assert f"{begin}requirements.txt && python task1_greedy.py" in commands
    assert f"{begin}tests/requirements.txt && python -m pytest" in commands
    without_hub = 'python task1_greedy.py --model "$(python tests/offline_model.py)"'
    assert f"{begin}tests/requirements.txt && {without_hub}" in commands


def test_no_formula_goes_over_two_lines():
    """GitHub would show its source."""
    without_fences = re.sub(r"^```.*?^```$", "", WITHOUT_OUTPUTS, flags=re.DOTALL | re.MULTILINE)
    assert [line for line in without_fences.split("\n") if line.count("$") % 2] == []


def test_links_lead_to_files_and_headings():
    targets = re.findall(r"\]\(([^):]+)\)", WITHOUT_OUTPUTS)
    headings = re.findall(r"^#+ (.*)$", PROSE, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
    for target in targets:
        assert target in anchors or (ROOT / target).is_file(), target


def test_the_right_answer_is_the_scripts_in_both_languages():
    for part in PROSE.split("\n## In English\n"):
        copies = re.findall(r'`({"contractor".*?})`', part, re.DOTALL)
        assert copies
        assert all(json.loads(copy) == common.RIGHT_ANSWER for copy in copies)
