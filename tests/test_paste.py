"""paste.py: the page shows what the scripts wrote, and says nothing of what they wrote before."""

import re
import sys

import paste
import pytest

HEAD = "| setting | hedgehog | json |\n| --- | --- | --- |\n"


def output(text="text", setting="x", model="B", words="The words."):
    row = f"| {setting} | 2 tokens | right |"
    return f"Model `{model}` on cpu.\n\n**{setting}**\n\n{text}\n\n{HEAD}{row}\n\n{words}\n\n"


SURVEY = (
    "Model `B`.\n\n20 texts.\n\n| setting | loops |\n| --- | --- |\n| T | 1 |\n\nThe words.\n\n"
)
OUTPUTS = {"t.md": output(setting="one"), "u.md": output(setting="two"), "survey.md": SURVEY}
PAGE = """before
<!-- observed t.md u.md -->
> a stand-in's
<!-- /observed -->
<!-- begin table -->
<!-- end table -->
<!-- observed t.md -->
- true of t
<!-- /observed -->
<!-- begin t.md -->
old
<!-- end t.md -->
<!-- observed survey.md u.md -->
- true of u and the survey
<!-- /observed -->
<!-- begin u.md -->
<!-- end u.md -->
<!-- begin survey.md -->
<!-- end survey.md -->
after
"""
LISTS = ["a stand-in's", "true of t", "true of u and the survey"]


def shown(page):
    """What a reader of the page sees: the page without its comments."""
    return paste.COMMENT.sub("", page)


@pytest.fixture
def page():
    """A page that holds OUTPUTS, with its three lists."""
    filled = paste.paste(PAGE, OUTPUTS)
    for written in ("> a stand-in's", "- true of t", "- true of u and the survey"):
        hidden = rf"<!-- To be written anew[^>]*?{re.escape(written)}\n-->\n"
        filled, count = re.subn(hidden, f"{written}\n", filled)
        assert count == 1
    return filled


def test_everything_goes_to_its_place(page):
    assert "\nold\n" not in page
    assert f"<!-- begin t.md -->\n\n{OUTPUTS['t.md']}<!-- end t.md -->" in page
    assert f"<!-- begin survey.md -->\n\n{SURVEY}<!-- end" in page
    rows = "| one | 2 tokens | right |\n| two | 2 tokens | right |\n"
    assert f"<!-- begin table -->\n\n{HEAD}{rows}\n<!-- end table -->" in page
    assert page.startswith("before\n") and page.endswith("-->\nafter\n")
    assert paste.paste(page, OUTPUTS) == page


@pytest.mark.parametrize(
    ("name", "changed", "hidden"),
    [
        ("t.md", output("another", "one"), LISTS[:2]),
        ("t.md", output(setting="three"), LISTS[:2]),  # the last row of its table
        ("u.md", output("another", "two"), [LISTS[0], LISTS[2]]),
        ("survey.md", SURVEY.replace("| T | 1 |", "| T | 2 |"), LISTS[2:]),
        ("survey.md", "", LISTS[2:]),
        ("t.md", output(setting="one", model="C"), []),  # another torch, for example
        ("t.md", output(setting="one", words="Other words."), []),
    ],
)
def test_a_list_is_hidden_when_an_output_of_its_own_has_changed(page, name, changed, hidden):
    new = paste.paste(page, OUTPUTS | {name: changed})
    for written in LISTS:
        assert (written in shown(new)) == (written not in hidden)
        assert new.count(written) == 1  # a hidden one is kept, in a comment
    assert new.count("<!-- To be written anew") == len(hidden)
    assert changed.strip() in new
    assert paste.paste(new, OUTPUTS | {name: changed}) == new


def test_a_hidden_list_stays_as_it_is_and_one_below_it_is_a_list_again(page):
    once = paste.paste(page, OUTPUTS | {"t.md": output("another", "one")})
    assert "- true of t\n-->\n" in paste.paste(once, OUTPUTS | {"t.md": output("a third", "one")})
    written = once.replace("- true of t\n-->\n", "- true of t\n-->\n- new\n")
    assert "- new" in shown(written)
    assert paste.paste(written, OUTPUTS | {"t.md": output("another", "one")}) == written
    again = paste.paste(written, OUTPUTS | {"t.md": output("a third", "one")})
    assert "- new" in again and "- new" not in shown(again)
    assert "true of t" not in again  # of its two comments one is left, with what was seen
    assert again.count("<!-- observed t.md -->\n<!-- To be written anew") == 1


@pytest.mark.parametrize("end", ["-->", "--->", "--!>", "<!-- later -->", "<!-- x --> -->"])
def test_nothing_in_a_list_ends_its_comment_early(page, end):
    page = page.replace("- true of t\n", f"- true {end} of t\n- second\n")
    new = paste.paste(page, OUTPUTS | {"t.md": output("another", "one")})
    kept = new.partition("<!-- observed t.md -->\n<!--")[2].partition("-->\n<!-- /observed -->")[0]
    assert "- second" in kept
    assert "-->" not in kept and "--!>" not in kept


def test_a_page_without_lists_is_pasted_too(page):
    without = paste.OBSERVED.sub("", page)
    assert paste.paste(without, OUTPUTS | {"t.md": output("another", "one")}).count("another") == 1


@pytest.mark.parametrize(
    ("mark", "instead", "message"),
    [
        ("<!-- end table -->", "", "end table"),
        ("<!-- end t.md -->", "", "end t.md"),
        ("<!-- end t.md -->", "<!-- end t.md -->\n<!-- end t.md -->", "end t.md"),
        ("<!-- begin survey.md -->", "", "begin survey.md"),
        ("<!-- /observed -->", "", "observed"),
        ("<!-- observed t.md -->", "", "observed"),
        ("<!-- observed t.md -->", "<!-- observed t.md v.md -->", "t.md v.md, not all"),
    ],
)
def test_a_page_with_wrong_marks_is_refused(page, mark, instead, message):
    with pytest.raises(ValueError, match=message):
        paste.paste(page.replace(mark, instead, 1), OUTPUTS)


def test_long_texts_are_shortened():
    def fence_of(lines, fence="```"):
        numbered = "\n".join(f"line {number}" for number in range(1, lines + 1))
        return f"{fence}text\n{numbered}\n{fence}"

    def pasted(text):
        page = paste.paste(PAGE, OUTPUTS | {"t.md": output(text)})
        return page.partition("**x**\n\n")[2].partition("\n\n| setting")[0]

    assert pasted(fence_of(30)) == fence_of(30)
    link = "[outputs/t.md](outputs/t.md)"
    assert pasted(fence_of(31)) == f"{fence_of(25)}\n\n6 more lines: {link}"
    inner = f"````text\n{fence_of(40)}\n````"  # a model may write a fence
    assert pasted(inner).endswith(f"line 24\n````\n\n17 more lines: {link}")


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
    (project / "outputs" / "task1.md").write_text(output("ёжик", "one"), encoding="utf-8")
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


def test_a_missing_output_is_one_message(project, capsys):
    page = (project / "README.md").read_bytes()
    (project / "outputs" / "task2.md").unlink()
    with pytest.raises(SystemExit) as end:
        paste.main()
    assert end.value.code == 2
    message = capsys.readouterr().err.partition("paste.py: error: ")[2]
    assert "task2.md" in message and message.count("\n") == 1
    assert (project / "README.md").read_bytes() == page
