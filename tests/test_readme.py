"""The README shows what outputs/ holds, answers what was asked, and stays true of any model."""

import re

import paste
import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
OUTPUTS = sorted(path.name for path in (ROOT / "outputs").glob("*.md"))
TEXTS = {"task1": 2, "task2": 6, "task3": 10, "task4": 8, "task5": 10}  # asked for
QUESTIONS = {  # the assignment's own words
    "1": [
        "если запустить алгоритм несколько раз, то будут ли различаться генерации?",
        "какие есть проблемы с таким подходом к генерации в случае с генерацией сказки и в случае с генерацией JSON?",
    ],
    "2": [
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


def without(page, *patterns):
    for pattern in patterns:
        page = re.sub(pattern, "", page, flags=re.DOTALL | re.MULTILINE)
    return page


PASTED = r"<!-- begin outputs/(\S+) -->.*?<!-- end outputs/\1 -->"
OBSERVED = r"<!-- observed .*?<!-- /observed -->"
PROSE = without(README, PASTED, OBSERVED)


def section(number):
    """The prose of one task."""
    return re.search(rf"^## {number}\. .*?(?=^## )", PROSE, re.DOTALL | re.MULTILINE)[0]


def test_outputs_are_the_scripts():
    assert OUTPUTS == sorted(f"{path.stem}.md" for path in ROOT.glob("task*.py"))


@pytest.mark.parametrize("name", OUTPUTS)
def test_readme_holds_the_outputs(name):
    output = (ROOT / "outputs" / name).read_bytes().decode()
    assert paste.paste(README, name, output) == README, "run tests/paste.py"


@pytest.mark.parametrize("name", OUTPUTS)
def test_observed_lists_speak_of_the_model_that_wrote_the_texts(name):
    observed, wrote = paste.models(README, name)
    assert observed == wrote


def test_every_task_has_one_observed_list_of_at_most_four():
    lists = re.findall(r"<!-- observed .+? -->\n(.*?)<!-- /observed -->", README, re.DOTALL)
    assert len(lists) == 5
    assert all(1 <= len(re.findall("^- ", found, re.MULTILINE)) <= 4 for found in lists)


def test_what_is_not_observed_is_said_of_any_model():
    general = without(PROSE, r"^## Quick start$.*?(?=^## )", r"^## Speed$.*", r"^> .*?\n\n")
    assert "## 5." in general
    assert not re.findall(r"stand-?in|заменител|coder", general, re.IGNORECASE)


@pytest.mark.parametrize("number", QUESTIONS)
def test_every_question_stands_in_its_section(number):
    words = " ".join(section(number).split()).lower()
    for question in QUESTIONS[number]:
        assert question.lower() in words


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_asked_for_text_is_there(name):
    asked = TEXTS[name[:5]]
    shown = (ROOT / "outputs" / name).read_text(encoding="utf-8")
    assert len(re.findall(r"^`{3,}text$", shown, re.MULTILINE)) == asked
    assert len(re.findall(r": \d+ tokens, ended by (?:EOS|limit)<br>", shown)) == asked


def test_links_lead_to_files():
    targets = re.findall(r"\]\(([^):]+)\)", PROSE)
    files = [target.partition("#")[0] for target in targets if not target.startswith("#")]
    assert len(files) >= 5
    for file in files:
        assert (ROOT / file).exists(), file
    assert "#L" not in "".join(targets)  # line numbers break at every edit


def test_paste_names_a_list_about_another_model():
    page = "<!-- observed A -->\n- x\n<!-- /observed -->\n<!-- begin outputs/t.md -->\n\nold\n"
    page += "<!-- end outputs/t.md -->\nafter"
    pasted = paste.paste(page, "t.md", "Model `B` on cpu.\n\n")
    assert pasted == page.replace("old\n", "Model `B` on cpu.\n\n")
    assert paste.models(pasted, "t.md") == ("A", "B")
    with pytest.raises(ValueError, match="one pair of comments"):
        paste.paste(page, "other.md", "")
