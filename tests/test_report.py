"""The report: figures, bars, trees, and texts that could break a page or act on a terminal."""

import argparse
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import generated, uncached
from hypothesis import given, settings
from hypothesis import strategies as st

import common
import task3_temperature
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


class Answers:
    """A tokenizer whose token i is the i-th answer."""

    def __init__(self, *answers):
        self.answers = answers

    def decode(self, tokens):
        (token,) = tokens
        return self.answers[token]


def text(*tokens, logprobs=None):
    return Text(tokens=list(tokens), logprobs=logprobs or [-1.0] * len(tokens))


def test_figures_of_stories():
    texts = [text(1, 2, 3, 4, 1, 2, 3, 4, EOS), text(1, 2, logprobs=[-4.0, -4.0])]
    row = common.text_figures(texts)
    assert row["different"] == "2 of 2"
    assert row["ended by EOS"] == "1 of 2"
    assert row["mean tokens"] == "6"  # 5.5
    assert row["log-prob"] == "-1.55"  # (-9 - 8) / 11
    assert common.text_figures([texts[0]] * 2)["different"] == "1 of 2"
    assert common.repeated(texts) == "16.7%"  # one of six runs, and a text without any
    assert common.repeated(texts[1:]) == "0.0%"


RIGHT = '{"contractor": "Mike", "sum": 100.50, "currency": "RUB"}'


@pytest.mark.parametrize(
    ("answer", "parses", "right"),
    [
        (RIGHT, 1, 1),
        ('{"sum": 100.5, "currency": "RUB", "contractor": "Mike"}', 1, 1),
        ('{"contractor": "Mike", "sum": "100.5", "currency": "RUB"}', 1, 0),
        ('{"contractor": "Mike"}', 1, 0),
        ("[1]", 1, 0),
        (f"```json\n{RIGHT}\n```", 0, 0),
        ("[" * 100_000 + "]" * 100_000, 0, 0),
        ("Sure! {", 0, 0),
    ],
)
def test_what_parses_and_what_is_right(answer, parses, right):
    row = common.json_figures([text(0, EOS)], Answers(answer))
    assert row["parse"] == f"{parses} of 1"
    assert row["right"] == f"{right} of 1"


def test_the_commonest_json():
    string = '{"sum": "100,5 ₽"}'
    tokenizer = Answers('{"b": 1, "a": 2}', "no", '{"a": 2, "b": 1}', string)
    row = common.json_figures([text(i, EOS) for i in (3, 0, 1, 2)], tokenizer)
    assert (
        row["commonest that parses (count)"] == '`{"a": 2, "b": 1}` (2)'
    )  # whatever the keys' order
    row = common.json_figures([text(3, EOS)], tokenizer)
    assert row["commonest that parses (count)"] == f"`{string}` (1)"  # a string shows as one
    row = common.json_figures([text(1, EOS)], tokenizer)
    assert row["commonest that parses (count)"] == "none"


def test_the_answer_of_a_text_cut_at_the_limit():
    assert common.json_figures([text(0)], Answers("[1]"))["parse"] == "1 of 1"


def test_bars_stand_below_the_characters_of_their_tokens():
    tokenizer = Bytes(b'{"a', b"\n", b"}")
    lines = common.with_bars(text(0, 1, 2, EOS, logprobs=[0.0, -1.0, -0.7, -100.0]), tokenizer)
    assert lines == ['{"a', "███", "}<|im_end|>", "▄▁▁▁▁▁▁▁▁▁▁"]


def test_bars_of_half_and_wide_characters():
    half_e, other_half = "é".encode()[:1], "é".encode()[1:]
    tokenizer = Bytes(half_e, other_half, b"a")
    lines = common.with_bars(text(0, 1, 2, logprobs=[-100.0, 0.0, 0.0]), tokenizer)
    assert lines == ["éa", "▁█"]  # of two tokens in one character, the first counts
    lines = common.with_bars(text(0, 1, logprobs=[0.0, -100.0]), Bytes("猫".encode(), b"a"))
    assert lines == ["猫a", "██▁"]  # two columns wide
    lines = common.with_bars(text(0, 1, logprobs=[0.0, -100.0]), Bytes(b"\t", b"a"))
    assert lines == ["\\ta", "██▁"]  # a tab is shown as what it is


def test_bars_of_a_text_that_a_token_shortens():
    tidying = SimpleNamespace(decode=lambda tokens: "a ." if len(tokens) == 1 else "a.")
    assert common.with_bars(text(0, 1, logprobs=[0.0, -100.0]), tidying) == ["a.", "██"]


def test_bars_of_long_lines_are_wrapped():
    lines = common.with_bars(text(0, 0, logprobs=[0.0, -100.0]), Bytes(b"x" * 80))
    assert lines == ["x" * 100, "█" * 80 + "▁" * 20, "x" * 60, "▁" * 60]


def test_stories_are_wrapped_and_folded():
    words = ("word " * 100).encode()
    shown = common.show("greedy", text(*[0] * 61), Bytes(words, b"\n"))
    assert shown.startswith(
        "<details><summary><b>greedy</b>: 61 tokens, cut at the limit</summary>"
    )
    assert max(len(line) for line in shown.split("\n")) <= 100
    assert shown.count("word") == 6100
    shown = common.show("greedy", text(*[0, 1] * 31), Bytes(b"a", b"\n"))
    assert shown.count("\na") == 31  # line breaks stay


def test_the_same_text_is_named_not_repeated():
    tokenizer = Bytes(b"a", b"b")
    groups = {"x": [text(0, EOS)], "y": [text(1, EOS)], "z": [text(0, EOS)]}
    shown = common.section("hedgehog", groups, tokenizer)
    assert "**z**: the same text as x." in shown
    assert shown.count("```text") == 2
    shown = common.section("hedgehog", {"x": [text(0), text(1), text(0)]}, tokenizer, shown=3)
    assert "**x, text 3**: the same text as x, text 1." in shown
    assert common.section("hedgehog", {"x": [text(0), text(1)]}, tokenizer).count("```text") == 1


def test_tree_of_finished_candidates():
    tokenizer = Bytes(b"a", b"b\n", b"c", b"d" * 60, "猫".encode()[:1])
    leaves = [((0, 1, 2, EOS), "1"), ((0, 1, 3, EOS), "2"), ((0, 1, 3, 0, EOS), "3"), ((4,), "4")]
    assert common.tree(leaves, tokenizer) == [
        "├─ ab⏎",
        "│  ├─ c<|im_end|>   1",
        "│  └─ " + "d" * 22 + " … " + "d" * 19,
        "│     ├─ <|im_end|>   2",
        "│     └─ a<|im_end|>   3",
        "└─ \ufffd   4",
    ]


def test_the_tree_names_what_the_penalties_choose(tiny, tiny_folder):
    model, tokenizer = common.load(tiny_folder(2, letters=None, scale=0.2))
    prompt = tokenizer("abc").input_ids
    for num_beams in (1, 4, 8):
        found = task5_beam_search.beam_search(model, prompt, num_beams, 12)
        shown = task5_beam_search.finished_tree(num_beams, found, tokenizer)
        penalties = [p for beams, p in task5_beam_search.SETTINGS if beams == num_beams]
        chosen = re.findall(r"tokens, score (\S+)  ← length_penalty=(.*)$", shown, re.MULTILINE)
        assert sum(len(names.split(", ")) for _, names in chosen) == len(penalties)
        for score, names in chosen:
            for penalty in map(float, names.split(", ")):
                assert score == f"{task5_beam_search.best(found, penalty).score:.3f}"
        assert shown.count(" tokens, score ") == len(found)


@pytest.mark.parametrize("seed", range(4))
def test_the_least_sure_step(tiny_folder, seed):
    model, tokenizer = common.load(tiny_folder(seed, letters=None, scale=0.2))
    prompt = tokenizer(common.PROMPTS["hedgehog"]).input_ids
    tokens = generated(model, prompt, max_new_tokens=20)
    entropies = []
    for count in range(len(tokens)):
        probs = uncached(model, prompt, tokens[:count]).softmax(-1)
        entropies.append(float(-(probs * probs.log2()).sum()))
    count = entropies.index(max(entropies))
    so_far, logits = common.least_sure_step(model, tokenizer)
    assert so_far == tokenizer.decode(tokens[:count])
    torch.testing.assert_close(logits, uncached(model, prompt, tokens[:count]))
    for task in (task3_temperature, task4_nucleus):  # both show it
        where = f"least sure: after {common.code(so_far)}." if so_far else "least sure: the first."
        assert where in task.one_step(model, tokenizer)


def test_one_step_under_every_setting():
    logits = torch.tensor([0.45, 0.25, 0.14, 0.08, 0.05, 0.03]).log()
    tokenizer = SimpleNamespace(decode=lambda token: f" {token}|")
    distributions = {"T=1": logits.softmax(-1), "T=0.5": (logits / 0.5).softmax(-1)}
    distributions["top_p=0.9"] = task4_nucleus.nucleus(logits.softmax(-1)[None], 0.9)[0]
    rows = common.step_table("so far", distributions, tokenizer).split("\n")
    assert "after `so far`" in rows[2]
    assert rows[4] == "| next token | T=1 | T=0.5 | top_p=0.9 |"
    assert rows[6] == "| ` 0\\|` | 0.450 ████ | 0.688 ███████ | 0.536 █████ |"
    assert rows[9].endswith("| 0.080 █ | 0.022 | 0 |")
    assert rows[12] == "| entropy | 2.07 bits | 1.31 bits | 1.43 bits |"
    assert rows[13] == "| tokens above 0 | 6 | 6 | 3 |"
    assert "least sure: the first." in common.step_table("", distributions, tokenizer)


@settings(deadline=None, max_examples=300)
@given(st.text() | st.text("`~<|>\n\r\x1b\u202e\u2066\x00\x9b\ud800猫e\u0301"))
def test_wild_texts(wild):
    seen = common.visible(wild)
    assert all(c.isprintable() or c == "\n" for c in seen)
    seen.encode()
    tokenizer = SimpleNamespace(decode=lambda _tokens: wild)
    for length in (1, 100):  # open with bars, and folded
        shown = common.show("x", text(*[1] * length), tokenizer)
        fence = re.search(r"^(`{3,})text\n", shown, re.MULTILINE)[1]
        body = shown.partition(f"{fence}text\n")[2].rpartition(f"\n{fence}")[0]
        assert fence not in body
        lines = body.split("\n")[:: 2 if length == 1 else 1]
        # Nothing is lost; the folded text is only wrapped at spaces.
        assert "".join(lines).replace(" ", "") == seen.replace("\n", "").replace(" ", "")
    cell = common.code(wild)
    assert cell[0] == cell[-1] == "`"
    assert not set(cell[1:-1].replace("\\|", "")) & set("|\n\t`")


def test_a_console_that_lacks_characters_and_a_notebooks_output(monkeypatch):
    written = []

    def output(encoding):
        return SimpleNamespace(encoding=encoding, write=written.append, flush=lambda: None)

    args = argparse.Namespace(model="x", max_new_tokens=1000)
    for encoding in ("ascii", "cp1251", None, "UTF-8"):
        monkeypatch.setattr(sys, "stdout", output(encoding))
        report = common.Report(args, torch.device("cpu"))
        report.add("█ ёж")
        assert "█ ёж" in report.markdown
    assert "\\u2588 \\u0451\\u0436\n\n" in written
    assert "\\u2588 ёж\n\n" in written
    assert written.count("█ ёж\n\n") == 2
