"""paste.py: the page shows what the scripts wrote, and says nothing of what they wrote before."""

import sys

import paste
import pytest

GREEDY, SAMPLING, TEMPERATURE, NUCLEUS, BEAMS = paste.TASKS
HEAD = "| setting | hedgehog | json |\n| --- | --- | --- |\n"
STORY = "Once.\n\n```text\nA long middle.\n\nThe end.\n```\n\nMore."


def made_by(model="B", seed=None, limit=9):
    seeded = "" if seed is None else f"; seed {seed}"
    return f"Model `{model}` on cpu, float32{seeded}; at most {limit} tokens a text; torch 2."


def output(setting, text=STORY, legend="The legend.", row=None, **run):
    row = row or f"| {setting} | 2 tokens `x` | right, 3 tokens `y` |"
    return f"{made_by(**run)}\n\n**{setting}**\n\n{text}\n\n{HEAD}{row}\n\n{legend}\n\n"


def block(title, cell="1"):
    return (
        f"**{title}**: after `**Title**: words`\n\n| a | b |\n| --- | --- |\n| {cell} | **-0.5** |"
    )


def compared(cell="1", titles=("one step", "right answer"), **run):
    blocks = "\n\n".join(block(title, cell) for title in titles)
    return f"{made_by(seed=0, **run)}\n\n{blocks}\n\n"


def surveyed(cell="1", **run):
    table = f"| setting | ended |\n| --- | --- |\n| T | {cell} |"
    return f"{made_by(**run)}\n\n20 texts.\n\n{table}\n\nLegend.\n\n"


CANDIDATES = f"{block('json, winners')}\n\n{block('json, all candidates')}"
OUTPUTS = {
    GREEDY: output("one"),
    **{name: output("two", seed=0) for name in (SAMPLING, TEMPERATURE, NUCLEUS)},
    BEAMS: output("three", CANDIDATES),
    paste.COMPARE: compared(),
    paste.SURVEY: surveyed(),
}
MARKS = ["overview", f"{BEAMS} json, winners"]
MARKS += [f"{paste.COMPARE} one step", f"{paste.COMPARE} right answer"]
for each in (*paste.TASKS, paste.SURVEY):
    MARKS += [each, f"{each} table"]
LISTS = {
    " ".join((*OUTPUTS,)): "> a stand-in's\n",
    GREEDY: "- true of greedy's\n",
    f"{paste.SURVEY} {SAMPLING}": "- true of sampling and the survey\n",
    f"{BEAMS} {paste.COMPARE}": "- true of beams and what is compared\n",
}
EMPTY_PAGE = "before\n"
EMPTY_PAGE += "".join(f"<!-- begin {mark} -->\nold\n<!-- end {mark} -->\n" for mark in MARKS)
EMPTY_PAGE += "".join(f"<!-- observed {names} -->\n<!-- /observed -->\n" for names in LISTS)
EMPTY_PAGE += "after\n"


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


def held(page, mark):
    """What stands between these marks."""
    return page.partition(f"<!-- begin {mark} -->\n")[2].partition(f"<!-- end {mark} -->\n")[0]


def test_everything_goes_to_its_place(page):
    expected = {
        GREEDY: f"{made_by()}\n\n**one**\n\n{STORY}",
        f"{GREEDY} table": f"{HEAD}| one | 2 tokens `x` | right, 3 tokens `y` |",
        f"{BEAMS} json, winners": block("json, winners"),
        BEAMS: f"{made_by()}\n\n**three**\n\n{block('json, all candidates')}",
        f"{paste.COMPARE} one step": block("one step"),
        f"{paste.COMPARE} right answer": block("right answer"),
        paste.SURVEY: f"{made_by()}\n\n20 texts.",
        f"{paste.SURVEY} table": "| setting | ended |\n| --- | --- |\n| T | 1 |",
    }
    for mark, markdown in expected.items():
        assert held(page, mark) == f"\n{markdown}\n\n"
    assert "legend" not in page.lower()
    assert page.startswith("before\n") and page.endswith("-->\nafter\n")
    assert paste.paste(page, OUTPUTS) == page


def test_the_overview_counts_facts_and_not_what_the_texts_say():
    rows = [
        "| a | 9 tokens, cut, repeats `cut, repeats \\| right` | not valid, 9 tokens `right` |",
        "| b | 9 tokens `He cut \\| and repeats, right` | wrong sum, 9 tokens `not valid` |",
        "| c | 9 tokens, repeats `` ` `` | right, 9 tokens `cut` |",
        "| d | 1 tokens  | not valid, 1 tokens  |",  # EOS alone: an excerpt without a letter
        "| e | 9 tokens `a` | fenced, right, 9 tokens `b` |",
        "| f | 9 tokens `a` | fenced, wrong contractor and currency, 9 tokens `b` |",
        "| g | 9 tokens `a` | wrong, 9 tokens, cut `sum` |",
        "| h | 9 tokens `a` | wrong sum and currency, 9 tokens `b` |",
        "| i | 9 tokens `a` | wrong sum, 9 tokens `b` |",
    ]
    outputs = OUTPUTS | {GREEDY: output("x", row="\n".join(rows))}
    overview = held(paste.paste(EMPTY_PAGE, outputs), "overview").strip()
    who_wrote_them, header, _, first, second, *_ = overview.replace("\n\n", "\n").split("\n")
    assert who_wrote_them == made_by()
    names = "task | stories | ended by EOS | repeats | valid JSONs"
    assert header == f"| {names} | right contractor | right sum | right currency | right |"
    assert first == "| task1_greedy | 9 | 8 | 2 | 5 | 6 | 4 | 5 | 1 |"
    assert second == "| task2_sampling | 1 | 1 | 0 | 1 | 1 | 1 | 1 | 1 |"


EVERYTHING, GREEDYS, SURVEYS, COMPARES = LISTS
LOSER = block("json, all candidates", "2")  # another one that wins under no penalty


@pytest.mark.parametrize(
    ("name", "changed", "hidden"),
    [
        (GREEDY, output("one", STORY.replace("middle", "riddle")), [GREEDYS]),
        (GREEDY, output("four"), [GREEDYS]),
        (GREEDY, OUTPUTS[GREEDY].replace("| 2 tokens", "| 3 tokens"), [GREEDYS]),
        (SAMPLING, output("two", "another", seed=0), [SURVEYS]),
        (paste.SURVEY, surveyed("2"), [SURVEYS]),
        (
            paste.SURVEY,
            surveyed().replace("| T | 1 |", "| T1 | |"),
            [SURVEYS],
        ),  # as letters the same
        (paste.SURVEY, None, [SURVEYS]),
        (paste.COMPARE, compared("2"), [COMPARES]),
        (paste.COMPARE, compared(titles=["right answer"]), [COMPARES]),
        (paste.COMPARE, None, [COMPARES]),
        (BEAMS, output("three", CANDIDATES.replace("| 1 |", "| 2 |", 1)), [COMPARES]),  # a winner
        (BEAMS, output("three", f"{block('json, winners')}\n\n{LOSER}"), [COMPARES]),
        (GREEDY, output("one", model="C"), None),  # or another torch, for example
        (GREEDY, output("one", legend="Another legend."), None),
    ],
)
def test_a_list_is_hidden_when_an_output_of_its_own_has_changed(page, name, changed, hidden):
    outputs = OUTPUTS | {name: changed}
    new = paste.paste(page, outputs)
    hidden = [EVERYTHING, *hidden] if hidden else []
    for names, written in LISTS.items():
        assert (written in shown(new)) == (names not in hidden)
        assert new.count(written) == 1  # a hidden one is kept, in a comment
    assert new.count("<!-- To be written anew") == len(hidden)
    assert paste.paste(new, outputs) == new
    fresh = paste.paste(EMPTY_PAGE, outputs)
    assert all(held(new, mark) == held(fresh, mark) for mark in MARKS)  # nothing old is left


def test_where_a_table_is_missing_stands_what_to_do(page):
    new = paste.paste(page, OUTPUTS | {paste.COMPARE: None, paste.SURVEY: None})
    for title in ("one step", "right answer"):
        line = held(new, f"{paste.COMPARE} {title}").strip()
        assert line == "*Not computed for these texts: `python tests/compare.py`.*"
    line = held(new, paste.SURVEY).strip()
    assert line == "*Not computed for these texts: `python tests/survey.py`.*"
    assert held(new, f"{paste.SURVEY} table").strip() == ""
    new = paste.paste(page, OUTPUTS | {paste.COMPARE: compared(titles=["right answer"])})
    assert "do not part" in held(new, f"{paste.COMPARE} one step")


def test_a_comparison_that_lacks_any_other_table_is_refused(page):
    with pytest.raises(ValueError, match="what outputs/ lacks.*right answer"):
        paste.paste(page, OUTPUTS | {paste.COMPARE: compared(titles=["one step"])})


def test_a_hidden_list_stays_as_it_is_and_one_below_it_is_a_list_again(page):
    another, third = ({**OUTPUTS, GREEDY: output("one", text)} for text in ("another", "a third"))
    once = paste.paste(page, another)
    kept = "- true of greedy's\n-->\n"
    assert kept in paste.paste(once, third)
    written = once.replace(kept, f"{kept}- new\n")
    assert "- new" in shown(written)
    assert paste.paste(written, another) == written
    again = paste.paste(written, third)
    assert "- new" in again and "- new" not in shown(again)
    assert "true of greedy's" not in again  # one comment is left, with what was seen last
    assert again.count(f"<!-- observed {GREEDY} -->\n<!-- To be written anew") == 1


@pytest.mark.parametrize("end", ["-->", "--->", "--!>", "<!-- later -->", "<!-- x --> -->"])
def test_nothing_in_a_list_ends_its_comment_early(page, end):
    page = page.replace("- true of greedy's\n", f"- true {end} of it\n- second\n")
    new = paste.paste(page, OUTPUTS | {GREEDY: output("one", "another")})
    mark = f"<!-- observed {GREEDY} -->\n<!--"
    kept = new.partition(mark)[2].partition("-->\n<!-- /observed -->")[0]
    assert "- second" in kept
    assert "-->" not in kept and "--!>" not in kept


def test_a_page_that_an_editor_has_formatted_on_saving_shows_the_same(page):
    """Prettier makes columns of one width, longer rules, and other emphasis."""
    formatted = page.replace("| --- | --- |\n| 1 |", "| ---- | --------- |\n|  1   |")
    formatted = formatted.replace("**-0.5**", "__-0.5__").replace("\n| one |", "\n|  one  |")
    assert formatted != page
    assert paste.paste(formatted, OUTPUTS) == page


@pytest.mark.parametrize(
    ("mark", "instead", "message"),
    [
        ("<!-- end overview -->", "", "end overview"),
        (f"<!-- begin {GREEDY} table -->", "", f"begin {GREEDY} table"),
        (f"<!-- end {GREEDY} -->", "", f"end {GREEDY}"),
        (
            f"<!-- begin {GREEDY} -->",
            f"<!-- end {GREEDY} -->\n<!-- begin {GREEDY} -->",
            "end task1",
        ),
        (f"<!-- begin {GREEDY} -->", f"<!-- begin {GREEDY} -->\n" * 2, f"begin {GREEDY}"),
        ("<!-- begin survey.md -->", "", "begin survey.md"),
        ("<!-- begin compare.md one step -->", "<!-- begin compare.md two steps -->", "two steps"),
        (f"<!-- begin {BEAMS} json, winners -->", f"<!-- begin {BEAMS} json, losers -->", "losers"),
        (
            "<!-- begin overview -->",
            "<!-- begin compare.md -->\n<!-- begin overview -->",
            "compare",
        ),
        ("<!-- /observed -->", "", "observed"),
        (f"<!-- observed {GREEDY} -->", "", "observed"),
        (f"<!-- observed {GREEDY} -->", f"<!-- observed {GREEDY} v.md -->", "v.md, not all"),
    ],
)
def test_a_page_with_wrong_marks_is_refused(page, mark, instead, message):
    with pytest.raises(ValueError, match=message):
        paste.paste(page.replace(mark, instead, 1), OUTPUTS)


@pytest.fixture
def project(tmp_path, monkeypatch, page):
    """A project's folder with that page and its outputs."""
    monkeypatch.setattr(paste, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["paste.py"])
    (tmp_path / "README.md").write_text(page, encoding="utf-8")
    (tmp_path / "outputs").mkdir()
    for name, text in OUTPUTS.items():
        (tmp_path / "outputs" / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_a_users_own_run(project, capsys):
    """The checkout has CRLF."""
    (project / "outputs" / GREEDY).write_text(
        output("one", "ёжик <!-- begin x -->"), encoding="utf-8"
    )
    (project / "outputs" / "survey.md").unlink()
    for path in (project / "README.md", *(project / "outputs").iterdir()):
        path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8", newline="\r\n")
    paste.main()
    assert capsys.readouterr().out.endswith('"To be written anew" in it: 3.\n')
    page = (project / "README.md").read_bytes()
    assert "ёжик" in page.decode() and b"\r" not in page
    assert b"| T | 1 |" not in page  # the survey's
    paste.main()
    assert (project / "README.md").read_bytes() == page


@pytest.mark.parametrize(
    ("name", "changed", "differences"),
    [
        (GREEDY, output("one", model="a on b"), "--model `B` and `a on b`"),
        (BEAMS, output("three", CANDIDATES, limit=20), "--max-new-tokens 9 and 20"),
        (NUCLEUS, output("two", seed=1), "--seed 0 and 1"),
        (NUCLEUS, output("two", seed=1, limit=8), "--max-new-tokens 9 and 8"),
    ],
)
def test_tasks_of_different_runs_are_refused(project, capsys, name, changed, differences):
    page = (project / "README.md").read_bytes()
    (project / "outputs" / name).write_text(changed)
    with pytest.raises(SystemExit) as end:
        paste.main()
    assert end.value.code == 2
    message = capsys.readouterr().err.partition("paste.py: error: ")[2]
    assert differences in message and message.count("outputs/") == 2
    assert message.count("\n") == 1
    assert (project / "README.md").read_bytes() == page


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        (paste.SURVEY, surveyed(model="C")),
        (paste.SURVEY, surveyed(limit=8)),
        (paste.COMPARE, compared(model="C")),
        (paste.COMPARE, compared().replace("seed 0", "seed 7")),
    ],
)
def test_a_survey_or_a_comparison_of_another_run_is_left_out(project, capsys, name, changed):
    (project / "outputs" / name).write_text(changed)
    paste.main()
    error = capsys.readouterr().err
    assert f"outputs/{name}" in error and error.count("\n") == 1
    page = (project / "README.md").read_text(encoding="utf-8")
    assert page == paste.paste(page, OUTPUTS | {name: None})


@pytest.mark.parametrize("content", [None, "", f"{made_by()}\n\nno table\n"])
def test_an_output_that_cannot_be_pasted_is_one_message(project, capsys, content):
    page = (project / "README.md").read_bytes()
    output_file = project / "outputs" / GREEDY
    output_file.unlink() if content is None else output_file.write_text(content)
    with pytest.raises(SystemExit) as end:
        paste.main()
    assert end.value.code == 2
    message = capsys.readouterr().err.partition("paste.py: error: ")[2]
    assert GREEDY in message and message.count("\n") == 1
    assert (project / "README.md").read_bytes() == page
