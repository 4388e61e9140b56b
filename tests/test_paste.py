"""paste.py: the page shows what the scripts wrote, and says nothing of what they wrote before."""

import sys

import paste
import pytest

HEAD = "| setting | hedgehog | json |\n| --- | --- | --- |\n"
STORY = "Once.\n\n```text\nA long middle.\n\nThe end.\n```\n\nMore."


def output(setting, text=STORY, model="B", legend="The legend."):
    row = f"| {setting} | 2 tokens `x` | right, 3 tokens `y` |"
    return f"Model `{model}` on cpu.\n\n**{setting}**\n\n{text}\n\n{HEAD}{row}\n\n{legend}\n\n"


SURVEY = "Model `B`.\n\n20 texts.\n\n| setting | ended |\n| --- | --- |\n| T | 1 |\n\nLegend.\n\n"
OUTPUTS = {"t.md": output("one"), "u.md": output("two"), "survey.md": SURVEY}
EMPTY_PAGE = """before
<!-- observed t.md u.md -->
<!-- /observed -->
<!-- begin overview -->
<!-- end overview -->
<!-- begin t.md table -->
<!-- end t.md table -->
<!-- observed t.md -->
<!-- /observed -->
<!-- begin t.md -->
old
<!-- end t.md -->
<!-- begin u.md table -->
<!-- end u.md table -->
<!-- observed survey.md u.md -->
<!-- /observed -->
<!-- begin u.md -->
<!-- end u.md -->
<!-- begin survey.md -->
<!-- end survey.md -->
<!-- begin survey.md table -->
<!-- end survey.md table -->
after
"""
LISTS = {
    "t.md u.md": "> a stand-in's\n",
    "t.md": "- true of t\n",
    "survey.md u.md": "- true of u and the survey\n",
}


def shown(page):
    """What a reader of the page sees: the page without its comments."""
    return paste.COMMENT.sub("", page)


@pytest.fixture
def page():
    """A page that holds OUTPUTS, and lists."""
    filled = paste.paste(EMPTY_PAGE, OUTPUTS)
    for names, written in LISTS.items():
        mark = f"<!-- observed {names} -->\n"
        filled = filled.replace(mark, mark + written)
    return filled


def block(page, name):
    """What stands between the marks of that name."""
    return page.partition(f"<!-- begin {name} -->\n")[2].partition(f"<!-- end {name} -->\n")[0]


def test_everything_goes_to_its_place(page):
    texts, table = f"Model `B` on cpu.\n\n**one**\n\n{STORY}", OUTPUTS["t.md"].split("\n\n")[-3]
    assert block(page, "t.md") == f"\n{texts}\n\n"
    assert block(page, "t.md table") == f"\n{table}\n\n"
    assert block(page, "survey.md") == "\nModel `B`.\n\n20 texts.\n\n"
    assert block(page, "survey.md table").endswith("\n| T | 1 |\n\n")
    assert "The legend" not in page
    assert page.startswith("before\n") and page.endswith("-->\nafter\n")
    assert paste.paste(page, OUTPUTS) == page


def test_the_overview_counts_facts_and_not_what_the_texts_say():
    rows = [
        "| a | 9 tokens, cut, repeats `cut, repeats \\| right` | not valid, 9 tokens `right` |",
        "| b | 9 tokens `He cut \\| and repeats, right` | wrong, 9 tokens `not valid` |",
        "| c | 9 tokens, repeats `` ` `` | right, 9 tokens `cut` |",
        "| d | 1 tokens  | not valid, 1 tokens  |",  # EOS alone: an excerpt without a letter
    ]
    written = f"Model.\n\n**a**\n\n{HEAD}" + "\n".join(rows) + "\n\nThe legend.\n\n"
    page = paste.paste(EMPTY_PAGE, OUTPUTS | {"t.md": written})
    header, _, *counts = block(page, "overview").strip().split("\n")
    names = "task | stories | ended by EOS | repeats | valid JSONs | right"
    assert header == f"| {names} |"
    assert counts == ["| t | 4 | 3 | 2 | 2 | 1 |", "| u | 1 | 1 | 0 | 1 | 1 |"]


@pytest.mark.parametrize(
    ("name", "changed", "hidden"),
    [
        ("t.md", output("one", STORY.replace("middle", "riddle")), ["t.md u.md", "t.md"]),
        ("t.md", output("three"), ["t.md u.md", "t.md"]),
        ("t.md", OUTPUTS["t.md"].replace("| 2 tokens", "| 3 tokens"), ["t.md u.md", "t.md"]),
        ("u.md", output("two", "another"), ["t.md u.md", "survey.md u.md"]),
        ("survey.md", SURVEY.replace("| T | 1 |", "| T | 2 |"), ["survey.md u.md"]),
        ("survey.md", None, ["survey.md u.md"]),
        ("t.md", output("one", model="C"), []),  # or another torch, for example
        ("t.md", output("one", legend="Another legend."), []),
    ],
)
def test_a_list_is_hidden_when_an_output_of_its_own_has_changed(page, name, changed, hidden):
    new = paste.paste(page, OUTPUTS | {name: changed})
    for names, written in LISTS.items():
        assert (written in shown(new)) == (names not in hidden)
        assert new.count(written) == 1  # a hidden one is kept, in a comment
    assert new.count("<!-- To be written anew") == len(hidden)
    texts = "\n\n".join((changed or "").strip().split("\n\n")[:-2])
    assert block(new, name).strip() == texts
    assert paste.paste(new, OUTPUTS | {name: changed}) == new


def test_a_hidden_list_stays_as_it_is_and_one_below_it_is_a_list_again(page):
    once = paste.paste(page, OUTPUTS | {"t.md": output("one", "another")})
    assert "- true of t\n-->\n" in paste.paste(once, OUTPUTS | {"t.md": output("one", "a third")})
    written = once.replace("- true of t\n-->\n", "- true of t\n-->\n- new\n")
    assert "- new" in shown(written)
    assert paste.paste(written, OUTPUTS | {"t.md": output("one", "another")}) == written
    again = paste.paste(written, OUTPUTS | {"t.md": output("one", "a third")})
    assert "- new" in again and "- new" not in shown(again)
    assert "true of t" not in again  # of its two comments one is left, with what was seen
    assert again.count("<!-- observed t.md -->\n<!-- To be written anew") == 1


@pytest.mark.parametrize("end", ["-->", "--->", "--!>", "<!-- later -->", "<!-- x --> -->"])
def test_nothing_in_a_list_ends_its_comment_early(page, end):
    page = page.replace("- true of t\n", f"- true {end} of t\n- second\n")
    new = paste.paste(page, OUTPUTS | {"t.md": output("one", "another")})
    kept = new.partition("<!-- observed t.md -->\n<!--")[2].partition("-->\n<!-- /observed -->")[0]
    assert "- second" in kept
    assert "-->" not in kept and "--!>" not in kept


@pytest.mark.parametrize(
    ("mark", "instead", "message"),
    [
        ("<!-- end overview -->", "", "end overview"),
        ("<!-- begin t.md table -->", "", "begin t.md table"),
        ("<!-- end t.md -->", "", "end t.md"),
        ("<!-- begin t.md -->", "<!-- end t.md -->\n<!-- begin t.md -->", "end t.md"),
        ("<!-- begin survey.md -->", "", "begin survey.md"),
        ("<!-- begin u.md -->", "<!-- begin u.md -->\n<!-- begin u.md -->", "begin u.md"),
        ("<!-- /observed -->", "", "observed"),
        ("<!-- observed t.md -->", "", "observed"),
        ("<!-- observed t.md -->", "<!-- observed t.md v.md -->", "t.md v.md, not all"),
    ],
)
def test_a_page_with_wrong_marks_is_refused(page, mark, instead, message):
    with pytest.raises(ValueError, match=message):
        paste.paste(page.replace(mark, instead, 1), OUTPUTS)


@pytest.fixture
def project(tmp_path, monkeypatch, page):
    """A project's folder with that page, two tasks and their outputs."""
    monkeypatch.setattr(paste, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["paste.py"])
    page = page.replace("t.md", "task1.md").replace("u.md", "task2.md")
    (tmp_path / "README.md").write_text(page, encoding="utf-8")
    (tmp_path / "outputs").mkdir()
    for name, text in zip(("task1.md", "task2.md", "survey.md"), OUTPUTS.values(), strict=True):
        (tmp_path / "outputs" / name).write_text(text, encoding="utf-8")
        (tmp_path / name.replace(".md", ".py")).touch()
    return tmp_path


def test_a_users_own_run(project, capsys):
    """In a checkout with CRLF."""
    (project / "outputs" / "task1.md").write_text(output("one", "ёжик"), encoding="utf-8")
    (project / "outputs" / "survey.md").unlink()
    for path in (project / "README.md", *(project / "outputs").iterdir()):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    paste.main()
    assert capsys.readouterr().out.endswith("by hand: 3.\n")
    page = (project / "README.md").read_bytes()
    assert "ёжик" in page.decode() and b"\r" not in page
    assert b"| T | 1 |" not in page  # the survey's
    paste.main()
    assert (project / "README.md").read_bytes() == page


@pytest.mark.parametrize("content", [None, "", "no table\n"])
def test_an_output_that_cannot_be_pasted_is_one_message(project, capsys, content):
    page = (project / "README.md").read_bytes()
    output_file = project / "outputs" / "task2.md"
    output_file.unlink() if content is None else output_file.write_text(content)
    with pytest.raises(SystemExit) as end:
        paste.main()
    assert end.value.code == 2
    message = capsys.readouterr().err.partition("paste.py: error: ")[2]
    assert "task2.md" in message and message.count("\n") == 1
    assert (project / "README.md").read_bytes() == page
