"""The report: its words, its tables, and texts that could break a page or act on a terminal."""

import argparse
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import common
import task5_beam_search
from common import Text

EOS = common.EOS
RIGHT = '{"contractor": "Mike", "sum": 100.50, "currency": "RUB"}'


class Bytes:
    """A tokenizer: a token is some bytes, EOS is shown as the real one shows it."""

    def __init__(self, *pieces):
        self.pieces = dict(enumerate(pieces)) | {EOS: b"<|im_end|>"}

    def decode(self, tokens):
        return b"".join(self.pieces[token] for token in tokens).decode(errors="replace")


def text(*tokens, score=0.0):
    return Text(tokens=list(tokens), score=score)


def cells_of(row):
    """The cells of a table's row, as a Markdown parser finds them."""
    parts = re.split(r"(?<!\\)\|", row)
    assert parts[0] == parts[-1] == ""
    return [part.strip().replace("\\|", "|") for part in parts[1:-1]]


def read_code(cell):
    """What a reader sees of a cell of code: a Markdown parser takes the backticks away."""
    fence = re.match("`+", cell)[0]
    content = cell.removeprefix(fence).removesuffix(fence)
    assert cell == fence + content + fence
    assert fence not in re.findall("`+", content)
    is_padded = content[0] == content[-1] == " " and content.strip()
    return content[1:-1] if is_padded else content


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (RIGHT, "right"),
        ('{"sum": 100.5, "currency": "RUB", "contractor": "Mike"}', "right"),
        ('{"contractor": "Mike", "sum": "100.5", "currency": "RUB"}', "wrong"),
        ('{"contractor": "Mike"}', "wrong"),
        ("[1]", "wrong"),
        (f"```json\n{RIGHT}\n```", "not valid"),
        ("[" * 100_000 + "]" * 100_000, "not valid"),
        ("Sure! {", "not valid"),
    ],
)
def test_what_is_valid_and_what_is_right(answer, verdict):
    tokenizer = Bytes(answer.encode())
    assert common.verdict(text(0, EOS), tokenizer) == verdict
    assert common.verdict(text(0), tokenizer) == verdict  # cut at the limit


@pytest.mark.parametrize("ending", [[], [EOS]])
@pytest.mark.parametrize(
    ("tokens", "is_loop"),
    [
        ([], False),
        ([1] * 40, False),
        ([1] * 41, True),  # the two places overlap
        ([*range(100)], False),
        ([*range(40), 50, *range(40)], True),
        ([*range(39), 50, *range(39)], False),
        ([*[1] * 50, 2], False),  # a loop that the text has left
    ],
)
def test_what_is_a_loop(tokens, ending, is_loop):
    assert common.loops(text(*tokens, *ending)) == is_loop


@pytest.mark.parametrize(
    ("story", "shown"),
    [
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 30 + " … " + "x" * 27),
        # Each side is cut back to a blank, but by ten characters at most.
        ("a" * 25 + " " + "b" * 30 + " " + "c" * 20, "a" * 25 + " … " + "c" * 20),
        (
            "a" * 19 + " " + "b" * 40 + " " + "c" * 16,
            "a" * 19 + " " + "b" * 10 + " … " + "b" * 10 + " " + "c" * 16,
        ),
        ("Two\n\n  lines.\n", "Two lines."),
        ("a | b", "a | b"),
        ("x" * 29 + "|" + "y" * 50, "x" * 29 + "| … " + "y" * 27),
        ("x" * 50 + "|" + "y" * 26, "x" * 30 + " … |" + "y" * 26),
        ("```json ``{}`` ```", "```json ``{}`` ```"),
    ],
)
def test_an_excerpt(story, shown):
    excerpt = common.excerpt(text(0, EOS), Bytes(story.encode()))
    first, second = cells_of(f"| {excerpt} | next |")
    assert (read_code(first), second) == (shown, "next")


def test_a_text_is_wrapped_at_blanks_and_keeps_its_lines_and_their_indentation():
    sentence = "word " * 30
    shown = common.fenced(f'{{\n    "sum": 1\n}}\n\n{sentence}\n{"x" * 100}')
    lines = shown.split("\n")
    assert lines[:5] == ["```text", "{", '    "sum": 1', "}", ""]
    assert lines[5:7] == [("word " * 18).strip(), ("word " * 12).strip()]
    assert lines[7:] == ["x" * 90, "x" * 10, "```"]


@pytest.fixture
def report(tmp_path, monkeypatch):
    """A function that makes a report of a script."""
    monkeypatch.setattr(common, "OUTPUTS", tmp_path / "outputs")  # a folder that is not there yet
    args = argparse.Namespace(model="x", max_new_tokens=1000)
    model = SimpleNamespace(device=torch.device("cpu"))
    return lambda tokenizer: common.Report("/elsewhere/task9.py", args, model, tokenizer)


def test_a_whole_report(report, tmp_path, capsys):
    made = report(Bytes(b"a", RIGHT.encode()))
    made.add_texts("hedgehog", {"T=1": text(0, EOS), "T=2": text(*[0] * 41), "T=3": text(0, EOS)})
    made.add_texts("json", {"T=1": text(1, EOS), "T=2": text(0), "T=3": text(0, EOS)})
    made.finish()
    pieces = made.markdown.split("\n\n")
    assert pieces.pop(0).startswith("Model `x` on cpu, all arithmetic float32; torch 2.")
    assert len(pieces.pop(-2)) <= 400  # what the words mean
    assert pieces == [
        "**hedgehog, T=1**: 2 tokens",
        "```text\na<|im_end|>\n```",
        "**hedgehog, T=2**: 41 tokens, cut, loops",
        f"```text\n{'a' * 41}\n```",
        "**hedgehog, T=3**: 2 tokens, the same text as T=1",
        "**json, T=1**: right, 2 tokens",
        f"```text\n{RIGHT}<|im_end|>\n```",
        "**json, T=2**: not valid, 1 tokens, cut",
        "```text\na\n```",
        "**json, T=3**: not valid, 2 tokens",
        "```text\na<|im_end|>\n```",
        "| setting | hedgehog | json |\n"
        "| --- | --- | --- |\n"
        f"| T=1 | 2 tokens `a` | right, 2 tokens `{RIGHT}` |\n"
        f"| T=2 | 41 tokens, cut, loops `{'a' * 41}` | not valid, 1 tokens, cut `a` |\n"
        "| T=3 | 2 tokens `a` | not valid, 2 tokens `a` |",
        "",
    ]
    assert capsys.readouterr().out == made.markdown
    assert (tmp_path / "outputs" / "task9.md").read_text(encoding="utf-8") == made.markdown


def test_the_table_of_all_candidates():
    found = [text(1, 1, 1, EOS, score=-5), text(0, EOS, score=-2)]
    found += [text(0, *[1] * 6, EOS, score=-4.2), text(1, 0, 1, EOS, score=-5.5)]
    searches = {1: [text(0, 0, score=-9)], 4: found, 8: [text(0, EOS, score=-2)]}
    shown = task5_beam_search.candidates_table("json", searches, Bytes(b"a", b"b"))
    title, _, table = shown.partition("\n\n")
    assert title.startswith("**json, all candidates** (n: tokens). num_beams=1: 0 finished by the ")
    assert title.endswith("; num_beams=4: 4 finished; num_beams=8: 1 finished by the limit")
    head, _, *rows = map(cells_of, table.split("\n"))
    assert head[2:-1] == ["score", "score / n^0.5", "score / n^1.0", "score / n^2.0"]
    assert [[row[0], *row[2:]] for row in rows] == [
        ["1", "-9.00", "", "**-4.50**", "", "`aa`"],
        ["4", "-2.00", "**-1.41**", "-1.00", "-0.500", "`a`"],
        ["4", "-4.20", "-1.48", "**-0.525**", "**-0.0656**", "`abbbbbb`"],
        ["4", "-5.00", "-2.50", "-1.25", "-0.312", "`bbb`"],
        ["4", "-5.50", "-2.75", "-1.38", "-0.344", "`bab`"],
        ["8", "-2.00", "", "**-1.00**", "", "`a`"],
    ]
    assert rows[0][1] == "not valid, 2 tokens, cut"


WILD = "`~<|>\\\n\r\x1b\u202e\u2066\x00\x9b\ud800猫e\u0301 "


@settings(deadline=None, max_examples=300)
@given(st.text() | st.text(WILD) | st.text("ab`|\\ \n", min_size=61))
def test_wild_texts(wild):
    tokenizer = SimpleNamespace(decode=lambda _tokens: wild)
    seen = common.visible(wild)
    assert all(c.isprintable() or c == "\n" for c in seen)
    seen.encode()

    first, *body, last = common.fenced(wild).split("\n")
    assert re.fullmatch("`{3,}text", first)
    assert first == f"{last}text"
    assert not any(last in line for line in body)
    assert max(len(line) for line in body) <= 90
    assert "".join("".join(body).split()) == "".join(seen.split())  # nothing is lost

    words = " ".join(seen.split())
    row = common.table([{"text": common.excerpt(text(1), tokenizer), "next": "x"}]).split("\n")[2]
    cell, after = cells_of(row)
    assert after == "x"
    if words:
        begin, _, end = read_code(cell).partition(" … ")
        assert words.startswith(begin)
        assert words.endswith(end)
        assert len(words) <= 60 or (20 <= len(begin) <= 30 and 17 <= len(end) <= 27)


def test_a_console_that_lacks_characters_and_a_notebooks_output(monkeypatch, report):
    written = []

    def output(encoding):
        return SimpleNamespace(encoding=encoding, write=written.append, flush=lambda: None)

    for encoding in ("ascii", "cp1251", None, "UTF-8"):
        monkeypatch.setattr(sys, "stdout", output(encoding))
        made = report(None)
        made.add("█ ёж")
        assert "█ ёж" in made.markdown
    assert "\\u2588 \\u0451\\u0436\n\n" in written
    assert "\\u2588 ёж\n\n" in written
    assert written.count("█ ёж\n\n") == 2
