"""compare.py: each column of its tables, computed another way, on tiny models."""

import re
import sys

import compare
import paste
import pytest
import torch
import transformers
from compare import GREEDY, percent
from conftest import uncached
from transformers import TopPLogitsWarper

import common
from task3_temperature import TEMPERATURES
from task4_nucleus import SETTINGS, label

PROMPTS = {"hedgehog": [0, 1, 2], "json": [3, 4]}
SEEDS = [(model_seed, seed) for model_seed in range(4) for seed in range(3)]
each_seed = pytest.mark.parametrize(("model_seed", "seed"), SEEDS)


@pytest.fixture
def decoded(tiny, tiny_folder):
    """A function of a model's seed and the draws' seed: the arguments of a table."""

    def make(model_seed, seed):
        model = tiny(model_seed, scale=0.3)
        folder = tiny_folder(model_seed, scale=0.3)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        texts = {name: compare.decode(model, PROMPTS[name], seed, 30) for name in PROMPTS}
        return model, tokenizer, PROMPTS, texts

    return make


def common_beginning(text, other):
    """How many tokens they share, the long way."""
    lengths = range(1 + min(len(text.tokens), len(other.tokens)))
    return max(n for n in lengths if text.tokens[:n] == other.tokens[:n])


def kept(probs):
    """The nucleus of top_p = 0.9, a set of tokens."""
    ranked = probs.sort(descending=True)
    within = ranked.values.cumsum(0) <= 0.9
    return {int(probs.argmax()), *ranked.indices[within].tolist()}


def rank_of(token, probs):
    return sorted(probs.tolist(), reverse=True).index(float(probs[token])) + 1


def is_shown(cell, token, probs, tokenizer, rank=True):
    """Whether a cell is that token with its probability, and its rank."""
    string = tokenizer.decode([token]).replace(" ", "␣")
    expected = f"`{string}` {percent(probs[token])}"
    return cell == (f"{expected}, rank {rank_of(token, probs)}" if rank else expected)


@each_seed
@pytest.mark.parametrize("name", ["json", "hedgehog"])
def test_one_step(decoded, model_seed, seed, name):
    model, tokenizer, prompts, texts = decoded(model_seed, seed)
    if name == "hedgehog":  # the JSON goes first, unless it does not part
        texts["json"][1.0] = texts["json"][GREEDY]
    found = compare.one_step(model, tokenizer, prompts, texts, seed)
    greedy, sampled = texts[name][GREEDY], texts[name]
    if sampled[1.0].tokens == greedy.tokens:
        assert found is None or name == "json"
        return
    words, rows = found
    place = common_beginning(greedy, sampled[1.0])
    before = greedy.tokens[:place]
    after = f"`{tokenizer.decode(before)}`" if before else "the prompt"
    assert words == f"{name}, place {place + 1}, after {after}"

    logits = uncached(model, prompts[name], before).double()
    probs = logits.softmax(-1)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(place + 1):
        uniform = torch.rand(len(logits), dtype=torch.float64, generator=generator)
    g = -(-uniform.log()).log()
    ids = {f"`{tokenizer.decode([token])}`": token for token in range(len(logits))}
    tokens = [ids[row["token"]] for row in rows]
    first = int(probs.argmax())
    assert tokens == sorted(tokens, key=lambda token: -probs[token])
    expected = set(probs.topk(4).indices.tolist())
    expected.add(max(kept(probs), key=lambda token: logits[token] + g[token]))
    for temperature in TEMPERATURES[1:]:
        expected.add(int((logits + temperature * g).argmax()))
        (winner,) = [i for i, row in enumerate(rows) if "**" in row[f"T = {temperature}"]]
        if sampled[temperature].tokens[:place] == before:
            assert sampled[temperature].tokens[place] == tokens[winner]
    assert set(tokens) == expected

    for token, row in zip(tokens, rows, strict=True):
        z = logits[token] - logits[first]
        assert row["p"] == percent(probs[token])
        assert row["nucleus"] == ("in" if token in kept(probs) else "out")
        numbers = {"z": z, "g": g[token]}
        numbers |= {f"T = {t}": z + t * g[token] for t in TEMPERATURES[1:]}
        for column, number in numbers.items():
            assert float(row[column].strip("*")) == pytest.approx(float(number), abs=0.006)
            assert "-0.00" not in row[column]
        ahead = row["ahead of the first from"]
        if ahead.startswith("T = "):
            lead = z + float(ahead[4:]) * (g[token] - g[first])
            assert g[token] > g[first] and abs(lead) < 0.01 * (g[token] - g[first])
        else:
            assert ahead == ("" if token == first else "never")
            assert g[token] <= g[first]


def test_what_the_nucleus_draws_has_a_row_of_its_own(tiny_folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder())
    probs = torch.tensor([0.2, 0.18, 0.16, 0.14, 0.12, 0.08, 0.06, 0.06])  # six are in the nucleus
    g = torch.tensor([0, 0, 0, 0, 0, 3, 0, 5]).double()  # without the cut, the last one is drawn
    rows = compare.one_step_rows(probs.log(), g, tokenizer)
    assert [row["token"] for row in rows] == ["`a`", "`b`", "`c`", "`d`", "`f`", "`h`"]


@each_seed
def test_like_greedy(decoded, model_seed, seed):
    everything = decoded(model_seed, seed)
    model, tokenizer, prompts, texts = everything
    rows = compare.like_greedy_rows(*everything)
    for temperature, row in zip(TEMPERATURES, rows, strict=True):
        assert row.pop("T") == temperature
        for name, prompt in prompts.items():
            text, greedy = texts[name][temperature], texts[name][GREEDY]
            columns = ("like greedy", "drawn", "instead of")
            like, drawn, instead = [row[f"{name}: {column}"] for column in columns]
            if text.tokens == greedy.tokens:
                assert (like, drawn, instead) == (f"all {len(text.tokens)}", "", "")
            else:
                place = common_beginning(text, greedy)
                logits = uncached(model, prompt, greedy.tokens[:place])
                probs = (logits / temperature).softmax(-1)
                assert like == str(place)
                assert is_shown(drawn, text.tokens[place], probs, tokenizer)
                assert is_shown(instead, greedy.tokens[place], probs, tokenizer, rank=False)


@each_seed
def test_rarest(decoded, model_seed, seed):
    everything = decoded(model_seed, seed)
    model, tokenizer, prompts, texts = everything
    words, rows = compare.rarest(*everything)
    story, noise = texts["hedgehog"][1.0].tokens, texts["hedgehog"][10.0].tokens
    other = texts["json"][10.0].tokens
    probs = [uncached(model, prompts["hedgehog"], story[:n]).softmax(-1) for n in range(len(story))]
    outside = sum(token not in kept(row) for token, row in zip(story, probs, strict=True))
    shared = sum(map(int.__eq__, story, noise))
    both = sum(map(int.__eq__, noise, other))
    assert f"Of its {len(story)} tokens {outside} are outside the nucleus" in words
    assert f"{shared} of {min(len(story), len(noise))} stand in the same place" in words
    assert f" share {both} of {min(len(noise), len(other))} places" in words
    order = sorted(range(len(story)), key=lambda place: probs[place][story[place]])
    assert [row["place"] - 1 for row in rows] == order[:8]
    for place, row in zip(order[:8], rows, strict=True):
        token = story[place]
        assert row["token"] == f"`{tokenizer.decode([token])}`"
        assert row["p"] == f"{probs[place][token]:.0e}"
        assert row["rank"] == rank_of(token, probs[place])
        there = "".join(f"`{tokenizer.decode([each])}`" for each in noise[place : place + 1])
        assert row["T = 10.0 has there"] == ("the same" if there == row["token"] else there)


@each_seed
def test_removed(decoded, model_seed, seed):
    everything = decoded(model_seed, seed)
    model, tokenizer, prompts, texts = everything
    rows = compare.removed_rows(*everything)
    wanted = [(name, *setting) for name in prompts for setting in SETTINGS]
    for (name, temperature, top_p), row in zip(wanted, rows, strict=True):
        assert (row["prompt"], row["setting"]) == (name, label(temperature, top_p))
        text, uncut = texts[name][temperature, top_p], texts[name][temperature]
        for column, other in {"like greedy": texts[name][GREEDY], "like uncut": uncut}.items():
            prefix = "all " if text.tokens == other.tokens else ""
            assert row[column] == f"{prefix}{common_beginning(text, other)}"
        if text.tokens == uncut.tokens:
            assert list(row.values())[-3:] == ["", "", ""]
        else:
            place = common_beginning(text, uncut)
            logits = uncached(model, prompts[name], text.tokens[:place]) / temperature
            probs = logits.softmax(-1)
            token = uncut.tokens[place]
            assert is_shown(row["removed"], token, probs, tokenizer)
            assert is_shown(row["drawn instead"], text.tokens[place], probs, tokenizer, rank=False)
            keeps = TopPLogitsWarper(top_p)(None, logits[None])[0, token].isfinite()
            assert row["the paper's rule"] == ("keeps it" if keeps else "removes it too")


def test_the_right_answer(tiny, tiny_folder):
    model = tiny(5, scale=0.2, letters=None)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder(5, scale=0.2, letters=None))
    ways = {}
    for number in ("100.5", "100.50"):
        answer = f'{{"contractor": "Mike", "sum": {number}, "currency": "RUB"}}'
        tokens = tokenizer(answer + "<|im_end|>").input_ids
        along = [uncached(model, [7, 8], tokens[:n]).log_softmax(-1) for n in range(len(tokens))]
        score = sum(float(row[token]) for row, token in zip(along, tokens, strict=True))
        ways[answer] = (score, tokens, along)
    answer = max(ways, key=lambda answer: ways[answer][0])
    score, tokens, along = ways[answer]
    words, rows = compare.right_answer(model, tokenizer, [7, 8])
    assert words == f"`{answer}`, token by token"
    assert len(rows) == len(tokens) + 1  # no token is rank 1
    for place, token in enumerate(tokens):
        row, probs = rows[place], along[place].exp()
        before = tokenizer.decode(tokens[max(0, place - 4) : place])
        assert row["after"] == (f"`{before}`" if place else "the prompt")
        assert is_shown(row["right"], token, probs, tokenizer)
        assert is_shown(row["greedy takes"], int(probs.argmax()), probs, tokenizer, rank=False)
        assert row["nucleus"] == ("in" if token in kept(probs) else "out")
    assert rows[-1]["right"].endswith(f", score {score:.2f}, {score / len(tokens):.3f} a token")


@pytest.mark.parametrize(
    ("hard", "rows"),
    [
        (None, ["the other 3 tokens, each rank 1 | 34 % |  | in"]),
        (2, ["`ab` | `c` 25 %, rank 2 | `a` 70 % | out", "the other 2 tokens, each rank 1 | 49 %"]),
        (0, ["the prompt | `a` 25 %, rank 2 | `b` 70 %", "the other 2 tokens, each rank 1 | 49 %"]),
    ],
)
def test_a_right_answer_with_at_most_one_hard_token(tiny_folder, hard, rows):
    """The answer is "abc"; each token has 70 %, the hard one 25 %, behind another."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder())
    along = []
    for token in range(3):
        probs = torch.full((3,), 0.05)
        probs[token] = 0.25 if token == hard else 0.7
        probs[(token + 1) % 3] = 0.7 if token == hard else 0.25
        along.append(probs.log())
    *shown, whole = compare.right_answer_rows([0, 1, 2], along, tokenizer)
    for row, beginning in zip(shown, rows, strict=True):
        assert " | ".join(row.values()).startswith(beginning)
    assert whole["after"] == "the whole answer"
    assert whole["right"].startswith(f"1 in {2.9 if hard is None else 8.2}, score -")


def test_how_numbers_are_shown():
    shown = {0.142: "14 %", 0.0191: "1.9 %", 0.3: "30 %", 0.05: "5.0 %", 0.00013: "0.013 %"}
    shown |= {0.996: "99.6 %", 0.986: "99 %", 0.9994: "99.9 %", 0.9996: "> 99.9 %", 1: "> 99.9 %"}
    shown |= {0: "< 0.01 %", 0.000099: "< 0.01 %", 0.00011: "0.011 %"}
    assert {number: percent(number) for number in shown} == shown
    shown = {-11.0: "60,000", -0.2: "1.2", -3.6: "37", -2.2996: "10", -2000.0: "3.9e+868"}
    assert {score: compare.one_in(score) for score in shown} == shown


def test_how_tokens_are_shown(tiny_folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder(letters=None))

    def ids(string):
        return tokenizer(string).input_ids

    shown = [compare.shown(token, tokenizer) for token in ids(" \n\t\x1b|`<|im_end|>")]
    assert shown == ["`␣`", "`⏎`", "`⇥`", r"`\x1b`", "`|`", "`` ` ``", "`<|im_end|>`"]
    assert compare.shown(999_999, tokenizer) == "999999"
    after = {"one two three four five ": "`two three four five `", "": "the prompt"}
    after |= {'a b "': '`a b "`', "one\ntwo": "`one⏎two`"}
    assert {string: compare.last_words(ids(string), tokenizer) for string in after} == after


def test_the_whole_command(tiny_folder, monkeypatch, capsys, tmp_path):
    folder = tiny_folder(12, scale=0.2, letters=None)
    monkeypatch.setattr(common, "OUTPUTS", tmp_path)
    options = ["--model", folder, "--max-new-tokens", "12", "--seed", "5"]
    monkeypatch.setattr(sys, "argv", ["compare.py", *options])
    capsys.readouterr()  # what making a tiny model has printed
    compare.main()
    written = (tmp_path / "compare.md").read_text(encoding="utf-8")
    assert written == capsys.readouterr().out
    first, *blocks = written.strip().split("\n\n")
    assert "; seed 5; at most 12 tokens" in first
    titles = [re.match(r"\*\*(.+)\*\*: .", block)[1] for block in blocks[::2]]
    assert titles == paste.COMPARE_TITLES
    assert all(block.startswith("| ") for block in blocks[1::2])
