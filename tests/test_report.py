"""The report: marks, tables, trees, and texts that could break a page or act on a terminal."""

import argparse
import math
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import uncached
from hypothesis import given, settings
from hypothesis import strategies as st

import common
import task4_nucleus
import task5_beam_search
from common import Text

EOS = common.EOS


class Bytes:
    """A tokenizer: a token is some bytes, EOS is shown as the real one shows it."""

    def __init__(self, *pieces):
        self.pieces = dict(enumerate(pieces)) | {EOS: b"<|im_end|>"}

    def decode(self, tokens):
        return b"".join(self.pieces[token] for token in tokens).decode(errors="replace")


def text(*tokens, doubts=None):
    """A text, with the model's doubt about each token."""
    doubts = doubts or [0.5] * len(tokens)
    return Text(tokens=list(tokens), logprobs=[math.log(1 - min(d, 0.9999)) for d in doubts])


RIGHT = '{"contractor": "Mike", "sum": 100.50, "currency": "RUB"}'


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


@pytest.mark.parametrize(
    ("doubt", "mark"),
    [(0, " "), (0.062, " "), (0.063, "▁"), (0.5, "▄"), (0.937, "▇"), (0.938, "█")],
)
def test_the_mark_of_a_doubt(doubt, mark):
    assert common.mark(doubt) == mark


def test_marks_stand_below_the_characters_of_their_tokens():
    tokenizer = Bytes(b'{"a', b"\n", b"}")
    lines = common.with_marks(text(0, 1, 2, EOS, doubts=[0.5, 0.2, 0, 1]), tokenizer)
    assert lines == ['{"a', "▄▄▄", "}<|im_end|>", " ██████████"]


def test_a_line_of_marks_is_left_out_where_there_is_no_doubt_and_a_line_of_the_text_stays():
    tokenizer = Bytes(b"ab", b"\n\n", b"c d")
    lines = common.with_marks(text(0, 1, 2, doubts=[0.0, 1, 0.3]), tokenizer)
    assert lines == ["ab", "", "c d", "▂▂▂"]


def test_marks_of_half_characters_and_of_escapes():
    half_e, other_half = "é".encode()[:1], "é".encode()[1:]
    tokenizer = Bytes(half_e, other_half, b"a")
    lines = common.with_marks(text(0, 1, 2, doubts=[1, 0.5, 0.5]), tokenizer)
    assert lines == ["éa", "█▄"]  # of two tokens in one character, the first counts
    lines = common.with_marks(text(0, 1, doubts=[1, 0.5]), Bytes(b"\t", b"a"))
    assert lines == ["\\ta", "██▄"]  # a tab is shown as what it is


def test_marks_of_a_text_that_a_token_shortens():
    tidying = SimpleNamespace(decode=lambda tokens: "a ." if len(tokens) == 1 else "a.")
    assert common.with_marks(text(0, 1, doubts=[1, 0]), tidying) == ["a.", "██"]


def test_marks_follow_their_text_where_it_is_wrapped():
    lines = common.with_marks(text(0, 0, doubts=[1, 0.5]), Bytes(b"x" * 80))
    assert lines == ["x" * 90, "█" * 80 + "▄" * 10, "x" * 70, "▄" * 70]
    lines = common.with_marks(text(0, 1, doubts=[1, 0.5]), Bytes(b"x" * 80 + b" ", b"y" * 20))
    assert lines == ["x" * 80, "█" * 80, "y" * 20, "▄" * 20]  # the space at the break is not shown


def test_a_storys_doubt_from_beginning_to_end():
    marks = common.doubt_line(text(*range(60), doubts=[1] * 20 + [1, 0] * 10 + [0] * 20))
    assert marks == "█" * 10 + "▄" * 10 + "▁" * 10
    for count in (31, 100, 1000):
        assert len(common.doubt_line(text(*range(count)))) == 30
    assert common.doubt_line(text(1, 2, EOS, doubts=[1, 0.5, 0])) == "█▄▁"  # a refusal is short


def test_stories_are_wrapped_and_folded():
    words = ("word " * 100).encode()
    shown = common.text_section("greedy", text(*[0] * 61), Bytes(words, b"\n"))
    assert shown.startswith("<details><summary><b>greedy</b>: 61 tokens, cut</summary>")
    assert max(len(line) for line in shown.split("\n")) <= 90
    assert shown.count("word") == 6100
    shown = common.text_section("greedy", text(*[0, 1] * 31), Bytes(b"a", b"\n"))
    assert shown.count("\na") == 31  # line breaks stay
    shown = common.text_section("greedy", text(*[0] * 60, EOS), Bytes(b"a"))
    assert "<b>greedy</b>: 61 tokens</summary>" in shown


def test_short_texts_stand_open_with_their_marks():
    shown = common.text_section("x", text(0, EOS, doubts=[0.5, 0]), Bytes(b"a"))
    assert shown == "**x**: 2 tokens\n\n```text\na<|im_end|>\n▄\n```"
    assert common.text_section("x", text(*[0] * 60), Bytes(b"a")).startswith(
        "**x**: 60 tokens, cut\n"
    )


def test_a_line_that_is_too_long_by_a_space_leaves_no_empty_line():
    shown = common.text_section("x", text(*[0] * 61), Bytes(b"a" * 90 + b" \n"))
    assert "\n\na" not in shown.partition("text\n")[2]


@pytest.fixture
def report(tmp_path, monkeypatch, capsys):
    """A function that makes a report of a script."""
    monkeypatch.setattr(common, "OUTPUTS", tmp_path / "outputs")  # a folder that is not there yet
    args = argparse.Namespace(model="x", max_new_tokens=1000)
    model = SimpleNamespace(device=torch.device("cpu"))
    return lambda tokenizer: common.Report("/elsewhere/task9.py", args, model, tokenizer)


def test_the_same_text_is_named_not_repeated(report):
    made = report(Bytes(b"a", b"b"))
    made.add_texts("hedgehog", {"x": text(0, EOS), "y": text(1, EOS), "z": text(0, EOS)})
    assert "**z**: the same text as x.\n" in made.markdown
    assert made.markdown.count("```text") == 2


def test_the_table_at_a_glance(report, tmp_path):
    made = report(Bytes(b"a", RIGHT.encode()))
    made.add_texts("hedgehog", {"x": text(0, EOS, doubts=[1, 0]), "y": text(0, doubts=[0.5])})
    made.add_texts("json", {"x": text(1, EOS), "y": text(0)})
    made.finish()
    glance = made.markdown.partition("### At a glance\n\n")[2]
    assert glance.split("\n") == [
        "| setting | story | its doubt, from beginning to end | JSON |",
        "| --- | --- | --- | --- |",
        "| x | 2 tokens | `█▁` | right |",
        "| y | 1 tokens, cut | `▄` | not valid |",
        "",
        "",
    ]
    assert (tmp_path / "outputs" / "task9.md").read_text(encoding="utf-8") == made.markdown


def test_tree_of_candidates():
    tokenizer = Bytes(b"a", b"b\n", b"c", b"d" * 60, "猫".encode()[:1], b"e" * 99)
    leaves = [((0, 1, 2, EOS), "1"), ((0, 1, 3, EOS), "2"), ((0, 1, 3, 0, EOS), "3"), ((4,), "4")]
    lines = common.tree(leaves, tokenizer)
    assert [line.rstrip("1234").rstrip() for line in lines] == [
        "├─ ab⏎",
        "│  ├─ c<|im_end|>",
        "│  └─ " + "d" * 60,
        "│     ├─ <|im_end|>",
        "│     └─ a<|im_end|>",
        "└─ \ufffd",
    ]
    assert [line[89:] for line in lines] == ["", "1", "", "2", "3", "4"]  # notes at the page's edge
    (line,) = common.tree([((5,), "a note")], tokenizer)
    assert len(line) == 90 and line.endswith("e  a note") and " … " in line  # the piece gives way


def candidate(*tokens, score):
    """A text with that score."""
    return Text(tokens=list(tokens), logprobs=[score / len(tokens)] * len(tokens))


def test_the_tree_shows_why_a_penalty_chose():
    found = [
        candidate(0, EOS, score=-2.0),
        candidate(1, 1, 1, EOS, score=-5.0),
        candidate(0, *[1] * 6, EOS, score=-4.2),
        candidate(1, 0, 1, EOS, score=-5.5),
    ]
    shown = task5_beam_search.candidates_tree(4, found, Bytes(b"a", b"b"))
    title, _, fence = shown.partition("\n\n")
    assert title == "**Candidates with num_beams=4**: 4 finished"
    assert fence.split("\n")[1:-1] == [
        "                                            n    score   ÷ n^0.5     ÷ n^1.0     ÷ n^2.0",
        "├─ a",
        "│  ├─ <|im_end|>                            2    -2.00     -1.41 ←     -1.00      -0.500",
        "│  └─ bbbbbb<|im_end|>                      8    -4.20     -1.48      -0.525 ←   -0.0656 ←",
        "└─ b",
        "   ├─ bb<|im_end|>                          4    -5.00     -2.50       -1.25      -0.312",
        "   └─ ab<|im_end|>                          4    -5.50     -2.75       -1.38      -0.344",
    ]


@pytest.mark.parametrize(
    ("candidates", "ending"),
    [
        ([text(0, EOS), text(1, EOS)], "2 finished"),
        ([text(0, EOS), text(1, EOS), text(2, EOS)], "3 finished"),
        ([text(0, EOS)], "1 finished by the limit"),
        ([text(0, 0), text(0, 1)], "none finished by the limit, 2 unfinished"),
    ],
)
def test_how_a_search_has_ended(candidates, ending):
    assert task5_beam_search.ending(2, candidates) == ending


def test_the_step_that_is_shown(tiny_folder):
    model, tokenizer = common.load(tiny_folder(3, letters=None, scale=0.2))
    prompt = tokenizer(common.PROMPTS["hedgehog"] + common.BEGINNING).input_ids
    torch.testing.assert_close(common.example_step(model, tokenizer), uncached(model, prompt, []))


def test_one_step_under_every_setting():
    logits = torch.tensor([0.14, 0.25, 0.45, 0.08, 0.05, 0.03, 1e-9]).log()
    tokenizer = SimpleNamespace(decode=lambda token: f" {token}|")
    probs = logits.softmax(-1)
    distributions = {"T=1": probs, "T=0.1": (logits / 0.1).softmax(-1)}
    distributions["top_p=0.9"] = task4_nucleus.nucleus(probs[None], 0.9)[0]
    distributions["top_p=0.15"] = task4_nucleus.nucleus(probs[None], 0.15)[0]
    rows = common.step_table(logits, distributions, tokenizer).split("\n")
    assert f"`{common.BEGINNING}`" in rows[2]
    assert rows[4:] == [
        "| next token | T=1 | T=0.1 | top_p=0.9 | top_p=0.15 |",
        "| --- | --- | --- | --- | --- |",
        "| ` 2\\|` | 0.45 ██▎ | >0.99 █████ | 0.54 ██▋ | 1 █████ |",
        "| ` 1\\|` | 0.25 █▎ | 0.0028 | 0.30 █▌ | 0 |",
        "| ` 0\\|` | 0.14 ▊ | 8.5e-06 | 0.17 ▉ | 0 |",
        "| ` 3\\|` | 0.080 ▍ | 3.1e-08 | 0 | 0 |",
        "| ` 4\\|` | 0.050 ▎ | 2.9e-10 | 0 | 0 |",
        "| ` 5\\|` | 0.030 ▏ | 1.7e-12 | 0 | 0 |",
        "| entropy | 2.07 bits | 0.03 bits | 1.43 bits | 0.00 bits |",
        "| tokens left | 7 | 6 | 3 | 1 |",
    ]


@settings(deadline=None, max_examples=300)
@given(st.text() | st.text("`~<|>\n\r\x1b\u202e\u2066\x00\x9b\ud800猫e\u0301 "))
def test_wild_texts(wild):
    seen = common.visible(wild)
    assert all(c.isprintable() or c == "\n" for c in seen)
    seen.encode()
    tokenizer = SimpleNamespace(decode=lambda _tokens: wild)
    for length in (1, 100):  # open with marks (here without doubt, so none), and folded
        shown = common.text_section("x", text(*[1] * length, doubts=[0] * length), tokenizer)
        fence = re.search(r"^(`{3,})text\n", shown, re.MULTILINE)[1]
        body = shown.partition(f"{fence}text\n")[2].rpartition(f"\n{fence}")[0]
        assert fence not in body
        # Nothing is lost; the text is only wrapped, at spaces if it can be.
        assert re.sub(r"[ \n]", "", body) == re.sub(r"[ \n]", "", seen)
        assert max(len(line) for line in body.split("\n")) <= 90
    for line in common.tree([((1, 2), "note"), ((1, 3), "note")], tokenizer):
        assert line.isprintable()
    cell = common.code(wild)
    assert cell[0] == cell[-1] == "`"
    assert not set(cell[1:-1].replace("\\|", "")) & set("|\n\t`")


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


def test_a_tree_in_whose_text_is_a_fence():
    tokenizer = Bytes(b"```")
    shown = task5_beam_search.candidates_tree(1, [text(0, EOS)], tokenizer)
    assert shown.count("````") == 2
