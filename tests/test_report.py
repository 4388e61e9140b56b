"""The report: figures, bars, and texts that could break a page or act on a terminal."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import common
from common import Text


class Decoder:
    """A tokenizer whose every text is the same."""

    def __init__(self, text):
        self.text = text

    def decode(self, _tokens):
        return self.text


class Answers:
    """A tokenizer whose token i is the i-th answer; 9 is EOS, which is no part of an answer."""

    def __init__(self, answers):
        self.answers = answers

    def decode(self, tokens):
        (token,) = tokens
        return self.answers[token]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"contractor": "Mike", "sum": 100.50, "currency": "RUB"}', common.NO_FAULT),
        ('{"sum": 100.5, "currency": "RUB", "contractor": "Mike"}', common.NO_FAULT),
        ('{"contractor": "Mike", "sum": "100.5", "currency": "RUB"}', '`{"sum": "100.5"}`'),
        ('```json\n{"contractor": "Mike"}\n```', "in a code fence"),
        ('{"contractor": "Mike"}', "other keys"),
        ("[1]", "other keys"),
        ("[" * 100_000, "no JSON"),
        ("Sure! {", "no JSON"),
    ],
)
def test_faults(answer, expected):
    assert common.fault(answer) == expected


def test_figures_of_stories():
    texts = [
        Text([1, 2, 3, 4, 1, 2, 3, 4], [-1.0] * 8, "EOS"),
        Text([1, 2], [-4.0, -4.0], "limit"),
    ]
    row = common.figures("hedgehog", texts, None)
    assert (row["texts"], row["different"], row["mean tokens"]) == (2, 2, "5")
    assert (row["ended by EOS"], row["mean log-prob per token"]) == ("50%", "-1.60")
    assert row["repeated 4-grams"] == "20.0%"


def test_figures_of_jsons():
    right = '{"contractor": "Mike", "sum": 100.5, "currency": "RUB"}'
    tokenizer = Answers([right, "{}", "no", "no"])
    texts = [Text([i, 9], [-1.0, 0.0], "EOS") for i in range(4)]
    row = common.figures("json", texts, tokenizer)
    assert (row["JSON that parses"], row["JSON that is right"]) == (2, 1)
    assert row["commonest fault"] == "no JSON (2)"
    assert common.figures("json", texts[:1], tokenizer)["commonest fault"] == "none"


def test_columns_of_a_task_stand_in_its_rows():
    groups = {"a": [Text([1], [-1.0], "EOS")], "b": [Text([1], [-1.0], "EOS")]}
    columns = {"a": {"more": "first"}, "b": {"more": "second"}}
    shown = common.section("hedgehog", groups, Decoder("x"), columns=columns)
    assert re.search(r"^\| a \|.* first \|$", shown, re.MULTILINE)
    assert re.search(r"^\| b \|.* second \|$", shown, re.MULTILINE)


def test_bars():
    assert common.bars([0.0, -0.7, -100.0]) == "█▄▁"  # probabilities 1, 0.497 and 0
    assert common.bars([0.0] * 40 + [-100.0] * 40) == "█" * 20 + "▁" * 20
    assert common.bars([0.0, -100.0] * 40) == "▅" * 40  # each the mean of 1 and 0
    assert len(common.bars([-1.0] * 41)) == 40


def test_each_text_has_its_bars_under_its_label():
    shown = common.section("hedgehog", {"x": [Text([1, 2], [0.0, -100.0], "EOS")]}, Decoder("t"))
    assert "\nx: 2 tokens, ended by EOS<br>\n<code>█▁</code>\n" in shown


@settings(deadline=None, max_examples=300)
@given(st.text() | st.text("`~<|>\n\r\x1b\u202e\u2066\x00\x9b\ud800"))
def test_wild_texts(wild):
    seen = common.visible(wild)
    assert all(c.isprintable() or c in "\n\t" for c in seen)
    seen.encode()
    for length in (1, 100):  # open and folded
        text = Text([1] * length, [-1.0] * length, "EOS")
        shown = common.show("x", text, Decoder(wild))
        fence = re.search(r"^(`{3,})text\n", shown, re.MULTILINE)[1]
        body = shown.partition(f"{fence}text\n")[2].rpartition(f"\n{fence}")[0]
        assert body == seen
        assert fence not in seen
    cell = common.code(wild)
    ticks = cell[: len(cell) - len(cell.lstrip("`"))]
    assert cell.endswith(ticks) and ticks not in cell[len(ticks) : -len(ticks)]
    assert not set(cell.replace("\\|", "")) & set("|\n\t")
