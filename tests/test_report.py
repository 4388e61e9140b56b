"""The report: its words, its tables, and texts that could break a page or act on a terminal."""

import argparse
import io
import re
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import common
import task5_beam_search
from common import Text

EOS = common.EOS
RIGHT = '{"contractor": "Mike", "sum": 100.50, "currency": "RUB"}'


def tokenizer_of(*pieces):
    """A tokenizer of a few tokens: token i is the i-th piece."""
    strings = dict(enumerate(pieces)) | {EOS: "<|im_end|>"}
    return SimpleNamespace(decode=lambda tokens: "".join(strings[token] for token in tokens))


def text(*tokens, score=0.0):
    return Text(tokens=list(tokens), score=score)


def cells_of(row):
    """The cells of a table's row, as a Markdown parser finds them."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def read_code(cell):
    """What a reader sees of a cell that is code: a Markdown parser takes the backticks away."""
    fence, *inside, end = re.findall("`+", cell)
    assert cell[0] == cell[-1] == "`"
    assert end == fence
    assert fence not in inside
    content = cell.removeprefix(fence).removesuffix(fence)
    return content[1:-1] if content[0] == content[-1] == " " else content


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (RIGHT, "right"),
        ('{"sum": 100.5, "currency": "RUB", "contractor": "Mike"}', "right"),
        ('{"contractor": "Mike", "sum": "100.5", "currency": "RUB"}', "wrong sum"),
        ('{"contractor": "Mike", "sum": 105, "currency": "rubles"}', "wrong sum and currency"),
        ("[1]", "wrong contractor and sum and currency"),
        (RIGHT.replace("100.50", "NaN"), "not valid"),
        (RIGHT.replace("}", ', "to": 1}'), "wrong"),
        (f"```json \n{RIGHT}\n```", "fenced, right"),
        ('\n```\n{"contractor": "Mike", "sum": 1}\n```\n', "fenced, wrong sum and currency"),
        (f"Here it is:\n```json\n{RIGHT}\n```", "not valid"),
        ("```json\nno\n```", "not valid"),
        ("[" * 100_000 + "]" * 100_000, "not valid"),
    ],
)
def test_what_is_valid_and_what_is_right(answer, verdict):
    tokenizer = tokenizer_of(answer)
    assert common.verdict(text(0, EOS), tokenizer) == verdict
    assert common.verdict(text(0), tokenizer) == verdict  # cut at the limit


@pytest.mark.parametrize(
    ("tokens", "repeats"),
    [
        ([], False),
        ([1] * 40, False),
        ([1] * 41, True),  # the two places overlap
        ([*range(40), 50, *range(40)], True),
        ([*range(39), 50, *range(39)], False),
        ([7, *range(40), 50, *range(40), 60, 61], True),  # the text goes on after it
    ],
)
def test_what_repeats_itself(tokens, repeats):
    assert common.repeats(text(*tokens)) == repeats
    assert common.repeats(text(*tokens, EOS)) == repeats


@pytest.mark.parametrize(
    ("story", "shown"),
    [
        ("x" * 80, "x" * 80),
        ("x" * 81, "x" * 30 + " … " + "x" * 27),  # no blank in it
        (f"{'a' * 29} {'b' * 40} {'c' * 26}", f"{'a' * 29} … {'c' * 26}"),
        (f"one two {'a' * 70} three four", "one two … three four"),
        ("Two\n\n  lines.\n", "Two lines."),
        ("x" * 29 + "|" + "y" * 50 + "|" + "z" * 26, "x" * 29 + "| … |" + "z" * 26),
        ("x" * 29 + "`" + "y" * 50 + "`" + "z" * 26, "x" * 29 + "` … `" + "z" * 26),
        ("```json `` ` ```", "```json `` ` ```"),
    ],
)
def test_an_excerpt(story, shown):
    excerpt = common.excerpt(text(0, EOS), tokenizer_of(story))
    _, _, row = common.table([{"text": excerpt, "next": "x"}]).split("\n")
    first, second = cells_of(row)
    assert (read_code(first), second) == (shown, "x")


def test_code_keeps_its_blanks():
    """Markdown takes a blank away where there is one at both ends."""
    assert read_code(common.code(' "sum": ')) == ' "sum": '


def test_a_text_is_wrapped_at_blanks_and_keeps_its_lines_and_their_indentation():
    lines = common.fenced("{\n    1\n}\n\n" + "word " * 30 + "\n" + "x" * 100).split("\n")
    assert lines[:5] == ["```text", "{", "    1", "}", ""]
    assert lines[5:7] == [" ".join(["word"] * 18), " ".join(["word"] * 12)]
    assert lines[7:] == ["x" * 90, "x" * 10, "```"]


@pytest.fixture
def report(tmp_path, monkeypatch):
    """A function that makes a report of a script."""
    monkeypatch.setattr(common, "OUTPUTS", tmp_path / "outputs")  # a folder that is not there yet
    args = argparse.Namespace(model="x", max_new_tokens=1000)
    model = SimpleNamespace(device=SimpleNamespace(type="cpu"))
    return lambda tokenizer: common.Report("/elsewhere/task9.py", args, model, tokenizer)


def test_a_whole_report(report, tmp_path):
    made = report(tokenizer_of("a", RIGHT))
    made.add_texts("hedgehog", {"T=1": text(0, EOS), "T=2": text(*[0] * 41)})
    made.add_texts("json", {"T=1": text(1, EOS), "T=2": text(1, EOS)})
    made.finish()
    written = (tmp_path / "outputs" / "task9.md").read_text(encoding="utf-8")
    first, *pieces, _legend = written.rstrip("\n").split("\n\n")
    assert first.startswith("Model `x` on cpu, all arithmetic float32; at most 1000 tokens a text;")
    assert pieces == [
        "**hedgehog, T=1**: 2 tokens",
        "```text\na<|im_end|>\n```",
        "**hedgehog, T=2**: 41 tokens, cut, repeats",
        f"```text\n{'a' * 41}\n```",
        "**json, T=1**: right, 2 tokens",
        f"```text\n{RIGHT}<|im_end|>\n```",
        "**json, T=2**: right, 2 tokens, the same text as T=1",
        (
            "| setting | hedgehog | json |\n| --- | --- | --- |\n"
            f"| T=1 | 2 tokens `a` | right, 2 tokens `{RIGHT}` |\n"
            f"| T=2 | 41 tokens, cut, repeats `{'a' * 41}` | right, 2 tokens `{RIGHT}` |"
        ),
    ]


def test_the_tables_of_candidates(report):
    of_4 = [text(1, 1, EOS, score=-5), text(0, EOS, score=-2), text(0, *[1] * 6, EOS, score=-4.2)]
    searches = {1: [text(0, EOS, score=-2)], 4: of_4, 8: [text(0, 0, score=-9)]}
    made = report(tokenizer_of("a", "b"))
    task5_beam_search.add_candidates(made, "json", searches, made.tokenizer)
    _, words_of_winners, winners, words, table = made.markdown.strip().split("\n\n")
    assert words_of_winners == words.replace("all candidates", "winners")
    assert words == (
        "**json, all candidates**: n is the number of tokens; bold: each search's highest; "
        "num_beams=1: 1 finished; num_beams=4: 3 finished by the limit; "
        "num_beams=8: 0 finished by the limit"
    )
    head, _, *rows = [cells_of(line) for line in table.split("\n")]
    assert head[2:] == ["score", "score / n^0.5", "score / n^1.0", "score / n^2.0", "text"]
    assert [[row[0], *row[2:]] for row in rows[:-1]] == [
        ["1", "-2.00", "**-1.41**", "**-1.00**", "**-0.500**", "`a`"],
        ["4", "-2.00", "**-1.41**", "-1.00", "-0.500", "`a`"],
        ["4", "-4.20", "-1.48", "**-0.525**", "**-0.0656**", "`abbbbbb`"],
        ["4", "-5.00", "-2.89", "-1.67", "-0.556", "`bb`"],
    ]
    scores = ["-9.00", "**-6.36**", "**-4.50**", "**-2.25**"]
    assert rows[-1] == ["8", "not valid, 2 tokens, cut", *scores, "`aa`"]
    assert winners.split("\n") == [line for line in table.split("\n") if "`bb`" not in line]


@settings(deadline=None, max_examples=300)
@given(st.text() | st.text("ab`~|<>\\\n\r\x1b\x00\x9b\u202e\ud800猫\u0301\t ", min_size=81))
def test_wild_texts(wild):
    seen = common.visible(wild)
    first, *body, last = common.fenced(wild).split("\n")
    assert re.fullmatch("`{3,}text", first)
    assert first == f"{last}text"
    assert last not in "\n".join(body)
    assert all(line.isprintable() and len(line) <= 90 for line in body)
    assert "".join("".join(body).split()) == "".join(seen.split())  # nothing is lost

    excerpt = common.excerpt(text(1), SimpleNamespace(decode=lambda _tokens: wild))
    _, _, row = common.table([{"text": excerpt, "next": "x"}]).split("\n")
    cell, after = cells_of(row)
    assert after == "x"
    assert cell.isprintable()
    line = " ".join(seen.split())
    if line:
        begin, _, end = read_code(cell).partition(" … ")
        assert line.startswith(begin)
        assert line.endswith(end)


def test_a_console_that_lacks_characters_and_a_notebooks_output(monkeypatch, tiny_folder):
    monkeypatch.setattr(sys, "argv", ["script.py", "--model", tiny_folder()])
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1251", newline="\n")
    notebook = io.StringIO()  # it has no `reconfigure` either
    for stdout in (console, notebook):
        monkeypatch.setattr(sys, "stdout", stdout)
        _args, _model, _tokenizer, made = common.start(common.__file__, "description")
        made.add("█ ё")
    assert console.buffer.getvalue().decode("cp1251").endswith("\n\\u2588 ё\n\n")
    assert notebook.getvalue().endswith("\n█ ё\n\n")
