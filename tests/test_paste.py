"""paste.py: the page is true of the outputs the moment it has run."""

import argparse
import re
import sys
from types import SimpleNamespace

import offline_model
import paste
import pytest
import torch
from conftest import ROOT

import common

README = (ROOT / "README.md").read_text(encoding="utf-8")
NAMES = sorted(f"{path.stem}.md" for path in ROOT.glob("task*.py"))
GLANCE = "### At a glance\n\n| setting | JSON |\n| --- | --- |\n"


def output(model="B", text="text", setting="x"):
    return f"Model `{model}` on cpu.\n\nThe legend.\n\n{text}\n\n{GLANCE}| {setting} | right |\n\n"


SURVEY = "Model `B` on cpu.\n\n| setting |\n| --- |\n| T |\n"
OUTPUTS = {"t.md": output(setting="one"), "u.md": output(setting="two")}
FINGERPRINT = paste.fingerprint(*OUTPUTS.values())
OF_SURVEY = paste.fingerprint(SURVEY)
MARKS = f"""<!-- writer -->
x
<!-- /writer -->
<!-- glance -->
<!-- /glance -->
<!-- observed outputs {FINGERPRINT} -->
- true of tasks
<!-- /observed -->

<!-- begin outputs/t.md -->

old
<!-- end outputs/t.md -->
<!-- begin outputs/u.md -->
<!-- end outputs/u.md -->
<!-- begin outputs/survey.md -->
<!-- end outputs/survey.md -->
<!-- observed survey {OF_SURVEY} -->
- true of the survey
<!-- /observed -->
after
"""


def shown(page):
    """What a reader of the page sees: the page without its comments."""
    return paste.COMMENT.sub("", page)


def test_everything_goes_to_its_place():
    page = paste.paste(MARKS, OUTPUTS, SURVEY)
    assert "\nold\n" not in page
    assert "<!-- begin outputs/t.md -->\n\nModel `B` on cpu.\n\ntext\n\n<!-- end" in page
    assert "The legend" not in page
    rows = "| setting | JSON |\n| --- | --- |\n| one | right |\n| two | right |\n"
    assert f"<!-- glance -->\n\n{rows}\n<!-- /glance -->" in page
    assert page.count("| setting | JSON |") == 1
    assert f"<!-- begin outputs/survey.md -->\n\n{SURVEY}\n<!-- end" in page
    assert "- true of tasks\n" in shown(page) and "- true of the survey\n" in shown(page)
    assert page.endswith("-->\nafter\n")
    assert paste.paste(page, OUTPUTS, SURVEY) == page


def test_a_list_stays_where_only_the_first_lines_differ():
    other_device = {name: text.replace("cpu", "cuda") for name, text in OUTPUTS.items()}
    assert "- true of tasks\n" in shown(paste.paste(MARKS, other_device, SURVEY))


@pytest.mark.parametrize(
    ("outputs", "hidden"),
    [
        (OUTPUTS | {"u.md": output(text="another text")}, 1),
        (OUTPUTS | {"t.md": output(text="another text")}, 1),
        # Another model's: the survey's list is hidden, too.
        ({name: output("C", "another text") for name in OUTPUTS}, 2),
    ],
)
def test_a_list_is_hidden_when_any_text_is_another(outputs, hidden):
    page = paste.paste(MARKS, outputs, SURVEY)
    assert "true of tasks" not in shown(page)
    assert page.count("- true of tasks\n") == 1  # but kept
    assert page.count("<!-- To be written anew") == hidden
    assert f"<!-- observed outputs {paste.fingerprint(*outputs.values())} -->\n<!-- To be" in page
    # Written anew, it stays.
    written = re.sub(r"<!-- To be.*?-->", "- new --- and `--model`", page, flags=re.DOTALL)
    assert "- new" in shown(paste.paste(written, outputs, SURVEY))


def test_a_list_that_is_hidden_twice_is_one_comment():
    once = paste.paste(MARKS, {name: output(text="another") for name in OUTPUTS}, SURVEY)
    twice = paste.paste(once, {name: output(text="a third") for name in OUTPUTS}, SURVEY)
    assert "true of tasks" not in shown(twice)
    assert twice.count("To be written anew") == twice.count("- true of tasks") == 1
    assert "-->" not in shown(twice)


@pytest.mark.parametrize("written", ["- new --> x", "- new ---> x", "- new\n<!-- later -->"])
def test_a_list_with_comments_in_it_is_hidden_as_one(written):
    """One that was written below the comment it was to replace, for example."""
    once = paste.paste(MARKS, {name: output(text="another") for name in OUTPUTS}, SURVEY)
    both = once.replace("-->\n<!-- /observed", f"-->\n{written}\n<!-- /observed", 1)
    assert "- new" in shown(both)
    again = paste.paste(both, {name: output(text="a third") for name in OUTPUTS}, SURVEY)
    assert "- new" in again and "- new" not in shown(again)
    assert "true of tasks" not in again
    assert "-->" not in shown(again)


@pytest.mark.parametrize("survey", ["", SURVEY.replace("`B`", "`C`")])
def test_without_a_survey_of_the_same_model_the_page_says_so(survey):
    page = paste.paste(MARKS, OUTPUTS, survey)
    assert paste.NO_SURVEY in page
    assert "| T |" not in page
    assert "true of the survey" not in shown(page)
    assert "- true of tasks\n" in shown(page)


def test_the_survey_has_its_own_fingerprint():
    page = paste.paste(MARKS, OUTPUTS, SURVEY.replace("| T |", "| U |"))
    assert "true of the survey" not in shown(page)
    assert "- true of tasks\n" in shown(page)


ASSIGNMENTS = ["Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5-0.5B-Instruct"]  # from the Hub, a folder


def test_who_wrote_the_texts():
    top = {
        model: paste.paste(MARKS, {name: output(model) for name in OUTPUTS}).partition("/writer")[0]
        for model in (*ASSIGNMENTS, offline_model.NAME, "Qwen/Qwen2.5-7B-Instruct")
    }
    for model, line in top.items():
        assert line.count(f"`{model}`") == 2  # in each language
        assert ("stand-in" in line) == ("--model" in line) == (model == offline_model.NAME)
    for model in ASSIGNMENTS:
        assert "the assignment's model." in top[model]
    assert top["Qwen/Qwen2.5-7B-Instruct"].count("Qwen2.5-0.5B-Instruct") == 2


@pytest.mark.parametrize(
    "mark",
    ["<!-- writer -->", "<!-- /glance -->", "<!-- end outputs/t.md -->"]
    + ["<!-- begin outputs/survey.md -->", "<!-- /observed -->", "<!-- observed outputs"],
)
def test_a_page_that_lacks_a_mark_is_refused(mark):
    with pytest.raises(ValueError, match=r"README\.md"):
        paste.paste(MARKS.replace(mark, "", 1), OUTPUTS, SURVEY)


def test_an_end_before_its_beginning_is_refused():
    """Else all that follows would be lost."""
    with pytest.raises(ValueError, match="and then"):
        paste.between("before END between BEGIN after", "BEGIN", "END", "new")


def folded(label, *paragraphs, fence="```"):
    text = "\n\n".join(paragraphs)
    summary = f"<details><summary><b>{label}</b>: 9 tokens</summary>"
    return f"{summary}\n\n{fence}text\n{text}\n{fence}\n\n</details>\n"


def test_the_page_shortens_long_texts_and_names_equal_ones():
    lines = "\n".join(f"line {number}" for number in range(50))
    outputs = {
        "a.md": folded("short", "once", "again", "again", "once"),
        "b.md": folded("loop", "start", "turn\nturn", "turn\nturn", "turn\nturn", "tu")
        + folded("long", lines, fence="````"),
        "c.md": folded("other", "once", "again", "again", "once")
        + folded("as long", lines, fence="````"),
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


def test_what_a_report_writes_is_what_paste_reads(tmp_path, monkeypatch):
    """The legend, the folded texts and the table at the end are found as common.py writes them."""
    monkeypatch.setattr(common, "OUTPUTS", tmp_path)
    args = argparse.Namespace(model="B", max_new_tokens=1000)
    model = SimpleNamespace(device=torch.device("cpu"))
    tokenizer = SimpleNamespace(decode=lambda tokens: "".join(chr(token) for token in tokens))
    tokens = [ord(letter) for letter in "again and again\n\n" * 5 + paste.GLANCE]
    text = common.Text(tokens=tokens, logprobs=[-1.0] * len(tokens))
    for name in OUTPUTS:
        report = common.Report(name, args, model, tokenizer)
        report.add_texts("hedgehog", {f"one of {name}": text})
        report.add_texts("json", {f"one of {name}": text})
        report.finish()
    outputs = {name: (tmp_path / name).read_text(encoding="utf-8") for name in OUTPUTS}
    page = paste.paste(MARKS, outputs, SURVEY)
    assert common.LEGEND not in page
    assert page.count("### Prompt `hedgehog`") == 2
    assert "[the same paragraph again, 4×]" in page
    assert "**one of u.md**: the same text as one of t.md of [outputs/t.md]" in page
    assert page.count("| one of ") == 2


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project's folder with this README, and outputs that were all written by one model."""
    monkeypatch.setattr(paste, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["paste.py"])
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    (tmp_path / "outputs").mkdir()
    for name in NAMES:
        (tmp_path / name).with_suffix(".py").touch()
        (tmp_path / "outputs" / name).write_text(output("C", f"Text of {name}.", name))
    return tmp_path


def test_the_readme_after_a_users_own_run(project, capsys):
    """Of another model: nothing that speaks of the earlier texts is left to be seen."""
    paste.main()
    page = (project / "README.md").read_text(encoding="utf-8")
    lists = len(paste.OBSERVED.findall(README))
    assert lists == 6
    assert capsys.readouterr().out.endswith(f"by hand: {lists}.\n")
    assert all(f"Text of {name}." in page and f"| {name} | right |" in page for name in NAMES)
    assert "**What these texts show**" not in shown(page)
    general, _, _ = page.partition("\n## Running it elsewhere")
    assert not re.findall(r"stand-?in|заменител|coder|gguf", shown(general), re.IGNORECASE)
    paste.main()
    assert (project / "README.md").read_text(encoding="utf-8") == page


def test_a_checkout_with_crlf_is_pasted_as_any_other(project):
    paste.main()
    page = (project / "README.md").read_bytes()
    for path in (project / "README.md", *(project / "outputs").iterdir()):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    paste.main()
    assert (project / "README.md").read_bytes() == page


def check_refused(project, capsys, *words):
    with pytest.raises(SystemExit) as end:
        paste.main()
    assert end.value.code == 2
    message = capsys.readouterr().err.partition("paste.py: error: ")[2]
    assert message.count("\n") == 1
    for word in words:
        assert word in message
    assert (project / "README.md").read_text(encoding="utf-8") == README


def test_outputs_of_several_models_are_refused(project, capsys):
    """The commonest first try: one script is run, then paste.py."""
    (project / "outputs" / NAMES[2]).write_text(output("D"))
    check_refused(project, capsys, f"outputs/{NAMES[2]} of D", f"outputs/{NAMES[0]} of C")


def test_what_is_missing_or_no_output_is_refused(project, capsys):
    (project / "outputs" / NAMES[2]).write_text("nonsense")
    check_refused(project, capsys, NAMES[2])
    (project / "outputs" / NAMES[2]).write_text("Model `C`\n\nnonsense")
    check_refused(project, capsys, NAMES[2])
    (project / "outputs" / NAMES[2]).unlink()
    check_refused(project, capsys, NAMES[2], "is missing")
