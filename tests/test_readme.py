"""The README shows what outputs/ holds, answers what was asked, and stays true of any model."""

import re

import paste
import pytest
import torch
from conftest import ROOT, TEXTS, shown_texts

import task1_greedy
import task2_sampling
import task3_temperature
import task4_nucleus
import task5_beam_search

README = (ROOT / "README.md").read_text(encoding="utf-8")
OUTPUTS = {
    path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "outputs").glob("*.md"))
}
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


PASTED = r"<!-- begin outputs/(\S+) -->.*?<!-- end outputs/\1 -->"
OBSERVED = r"<!-- observed .*?<!-- /observed -->\n"
LAST_SECTION = r"^## Tests, other models, speed$.*"
COMMENT = r"<!--.*?-->"
FENCE = r"^(`{3,})\w*\n.*?^\1$"
TABLE = r"^\|.*?$"
OTHER_MODEL = r"stand-?in|заменител|coder|gguf"


QUESTIONS["2"] = QUESTIONS["1"]


def without(page, *patterns):
    for pattern in patterns:
        page = re.sub(pattern, "", page, flags=re.DOTALL | re.MULTILINE)
    return page


def section(number):
    """The prose of one task."""
    prose = without(README, PASTED, OBSERVED)
    return re.search(rf"^## {number}\. .*?(?=^## )", prose, re.DOTALL | re.MULTILINE)[0]


def test_outputs_are_the_scripts():
    assert list(OUTPUTS) == sorted(f"{path.stem}.md" for path in ROOT.glob("task*.py"))
    assert all((ROOT / "outputs" / name).read_bytes().count(b"\r") == 0 for name in OUTPUTS)


def test_the_page_is_as_paste_leaves_it():
    assert paste.paste(README, OUTPUTS) == README, "run tests/paste.py"


def test_the_page_is_not_long():
    prose = without(README, PASTED, COMMENT, FENCE, TABLE)
    assert len(prose.split()) <= 4100
    lines = [match[0] for match in re.finditer(FENCE, README, re.DOTALL | re.MULTILINE)]
    for line in "\n".join(lines).split("\n"):
        assert len(line) <= 105 or " " not in line or "─" in line


def numbers(text):
    return set(re.findall(r"\d+(?:[.,]\d+)*", text))


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_observed_list_is_short_and_can_be_checked(name):
    before, _, _ = README.partition(f"<!-- begin outputs/{name} -->")
    observed = re.findall(OBSERVED, before, re.DOTALL)
    assert len(observed) == list(OUTPUTS).index(name) + 1
    model, items = re.match(r"<!-- observed (.+?) -->(.*)<!--", observed[-1], re.DOTALL).groups()
    if "<!-- To be written" in items:
        pytest.skip("this list is to be written")
    assert model == paste.writer(OUTPUTS[name])
    assert items.startswith("\n**What these texts show**\n")
    assert 1 <= len(re.findall("^- ", items, re.MULTILINE)) <= 3
    assert numbers(items) <= numbers(OUTPUTS[name])


@pytest.mark.parametrize("model", ["Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct"])
def test_nothing_stale_is_shown_when_another_model_has_written(model):
    outputs = {name: f"Model `{model}` on cuda.\n\nText of {name}.\n" for name in OUTPUTS}
    page = paste.paste(README, outputs)
    for output in outputs.values():
        assert output in page
    assert page.count("<!-- To be written: **What these texts show**") == len(outputs)
    assert "What these texts show**\n" not in page
    top, _, _ = page.partition("\n## ")
    assert f"The texts below were written by `{model}`" in top
    is_the_assignments = model.endswith("/Qwen2.5-0.5B-Instruct")
    assert ("was not run" in top) == ("stand-in" in top) == (not is_the_assignments)
    general = without(page.replace("**stand-in**", ""), COMMENT, LAST_SECTION)
    assert "## 5." in general
    assert not re.findall(OTHER_MODEL, general, re.IGNORECASE)
    assert paste.paste(page, OUTPUTS).count("<!-- To be written") == len(outputs)  # not repeated


MARKS = """<!-- writer -->
x
<!-- /writer -->
<!-- observed B -->
- true
<!-- /observed -->

<!-- begin outputs/t.md -->

old
<!-- end outputs/t.md -->
after
"""


def test_paste_keeps_what_is_true_and_refuses_a_broken_page():
    pasted = paste.paste(MARKS, {"t.md": "Model `B` on cpu.\n"})
    assert "- true\n" in pasted
    assert "\n\nModel `B` on cpu.\n<!-- end" in pasted
    assert "\nold\n" not in pasted
    assert pasted.endswith("-->\nafter\n")
    with pytest.raises(ValueError, match="several models"):
        paste.paste(MARKS, {"t.md": "Model `B` on cpu.\n", "u.md": "Model `C` on cpu.\n"})
    for mark in ("<!-- writer -->", "<!-- /observed -->", "<!-- observed B -->", "<!-- end"):
        with pytest.raises(ValueError, match="once each|not found"):
            paste.paste(MARKS.replace(mark, ""), {"t.md": "Model `B` on cpu.\n"})


def folded(label, *paragraphs, fence="```"):
    text = "\n\n".join(paragraphs)
    summary = f"<details><summary><b>{label}</b>: 9 tokens, ended by EOS</summary>"
    return f"{summary}\n\n{fence}text\n{text}\n{fence}\n\n</details>\n"


def test_the_page_shortens_long_texts_and_names_equal_ones():
    lines = "\n".join(f"line {number}" for number in range(50))
    outputs = {
        "a.md": folded("short", "once", "again", "once"),
        "b.md": folded("loop", "start", "turn\nturn", "turn\nturn", "turn\nturn", "tu")
        + folded("long", lines, fence="````"),
        "c.md": folded("other", "once", "again", "once") + folded("as long", lines, fence="````"),
    }
    page = paste.with_short_texts(outputs)
    assert page["a.md"] == outputs["a.md"]
    assert "start\n\nturn\nturn\n\n[the same paragraph again, 2×]\n\ntu\n```" in page["b.md"]
    assert "line 9\n[40 more lines]\n````" in page["b.md"]
    assert page["b.md"].count("The whole text: [outputs/b.md](outputs/b.md)") == 2
    assert page["c.md"] == (
        "**other**: the same text as short of [outputs/a.md](outputs/a.md).\n"
        "**as long**: the same text as long of [outputs/b.md](outputs/b.md).\n"
    )


def test_the_pictures_numbers(monkeypatch):
    """Each way's own loop runs one step on the picture's distribution."""
    picture = re.search(r"<!-- picture -->\n```text\n(.*?)\n```", README, re.DOTALL)[1]
    _, *rows = [re.split(r"  +", line) for line in picture.split("\n")]
    names = ["sampling", "greedy", "T = 0.5", "top_p = 0.9", "4 beams"]
    assert picture.split("\n")[0].split() == " ".join(names).split()
    probs = torch.tensor([float(row[1].split()[0]) for row in rows])
    assert probs.sum() == pytest.approx(1)

    tasks = [task1_greedy, task2_sampling, task3_temperature, task4_nucleus, task5_beam_search]
    for task in tasks:
        monkeypatch.setattr(task, "Context", lambda *_: None)
        monkeypatch.setattr(task, "step", lambda _, texts: probs.log().expand(len(texts), -1))
    drawn_from = []

    def draw(probs, _generator):
        drawn_from.append(probs[0])
        return probs.argmax(-1)

    for task in tasks[1:4]:
        monkeypatch.setattr(task, "draw", draw)
    task2_sampling.sample(None, [0], 1, None, 1)
    task3_temperature.sample(None, [0], [0.5], None, 1)
    task4_nucleus.sample(None, [0], [(1.0, 0.9)], None, 1)
    sampling, temperature, nucleus = drawn_from
    greedy = torch.zeros(len(probs))
    greedy[task1_greedy.greedy(None, [0], 1).tokens] = 1
    candidates = task5_beam_search.beam_search(None, [0], 4, 1)
    scores = {text.tokens[0]: f"score {text.score:.2f}" for text in candidates}

    for token, row in enumerate(rows):
        for column, shown in zip([sampling, greedy, temperature, nucleus], row[1:5], strict=True):
            bar = "█" * round(10 * float(column[token]))
            expected = f"{column[token]:.2f} {bar}".rstrip() if column[token] > 0 else "0"
            assert shown == expected
        assert row[5] == scores.get(token, "dropped")


@pytest.mark.parametrize("number", QUESTIONS)
def test_every_question_stands_in_its_section(number):
    words = " ".join(section(number).split()).lower()
    for question in QUESTIONS[number]:
        assert question.lower() in words


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_asked_for_text_is_there(name):
    assert shown_texts(OUTPUTS[name]) == TEXTS[name.removesuffix(".md")]


def test_links_lead_to_files_and_headings():
    page = without(README, PASTED)
    targets = re.findall(r"\]\(([^):]+)\)", page)
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
    assert len(targets) >= 8
    for target in targets:
        assert target in anchors or (ROOT / target).is_file(), target
