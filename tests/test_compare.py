"""compare.py: each column of its tables, computed another way, on tiny models."""

import math
import re
import sys

import compare
import paste
import pytest
import torch
import transformers
from conftest import LETTERS, uncached
from transformers import TopPLogitsWarper

import common
from task3_temperature import TEMPERATURES
from task4_nucleus import SETTINGS, label, nucleus

PROMPTS = {"hedgehog": [0, 1, 2], "json": [3, 4]}
LIMIT = 30


@pytest.fixture
def decoded(tiny, tiny_folder):
    """A function: a model's seed, and that of the draws, to (model, tokenizer, texts)."""

    def make(model_seed, seed, limit=LIMIT):
        model = tiny(model_seed, scale=0.3)
        folder = tiny_folder(model_seed, scale=0.3)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        texts = {n: compare.decode(model, p, seed, limit) for n, p in PROMPTS.items()}
        return model, tokenizer, texts

    return make


def common_beginning(text, other):
    """How many tokens they share: the long way."""
    length = min(len(text.tokens), len(other.tokens))
    return max(n for n in range(length + 1) if text.tokens[:n] == other.tokens[:n])


def kept(probs):
    """The nucleus of top_p = 0.9 as the assignment has it, token by token."""
    tokens, total = set(), 0.0
    for token in sorted(range(len(probs)), key=lambda token: -probs[token]):
        total += float(probs[token])
        if total > 0.9 and tokens:
            return tokens
        tokens.add(token)
        if total > 0.9:
            return tokens
    return tokens


def ranked(token, probs):
    """What stands of a token behind its code: 33 %, rank 2."""
    place = sorted(probs.tolist(), reverse=True).index(float(probs[token])) + 1
    return f"{compare.percent(probs[token])}, rank {place}"


def tokens_of(cells, tokenizer):
    """The ids of tokens that are shown as code."""
    ids = {compare.shown(token, tokenizer): token for token in range(len(LETTERS) + 3)}
    return [ids[cell] for cell in cells]


SEEDS = [(model_seed, seed) for model_seed in range(4) for seed in range(3)]


@pytest.mark.parametrize(("model_seed", "seed"), SEEDS)
def test_one_step(decoded, model_seed, seed):
    model, tokenizer, texts = decoded(model_seed, seed)
    words, rows = compare.one_step(model, tokenizer, texts, seed)
    name = "json"
    if texts[name].greedy.tokens == texts[name].sampled[1.0].tokens:
        name = "hedgehog"
    greedy, sampled = texts[name].greedy, texts[name].sampled
    place = common_beginning(greedy, sampled[1.0])
    before = tokenizer.decode(greedy.tokens[:place])
    assert words == f"{name}, place {place + 1}, after {f'`{before}`' if before else 'the prompt'}"

    logits = uncached(model, PROMPTS[name], greedy.tokens[:place])
    probs = logits.softmax(-1)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(place + 1):
        uniform = torch.rand(len(logits), dtype=torch.float64, generator=generator)
    g = -(-uniform.log()).log()
    ids = tokens_of([row["token"] for row in rows], tokenizer)
    assert ids == sorted(ids, key=lambda token: -probs[token])
    winners = set(probs.topk(4).indices.tolist())
    for temperature in TEMPERATURES[1:]:
        (winner,) = [i for i, row in enumerate(rows) if "**" in row[f"T = {temperature}"]]
        text = sampled[temperature]
        if text.tokens[:place] == greedy.tokens[:place]:
            assert text.tokens[place] == ids[winner]
        winners.add(int((logits + temperature * g).argmax()))
    inside = max(kept(probs), key=lambda token: logits[token] + g[token])
    assert set(ids) == winners | {inside}

    first = int(probs.argmax())
    for token, row in zip(ids, rows, strict=True):
        z = float(logits[token] - logits[first])
        assert row["p"] == compare.percent(probs[token])
        assert row["nucleus"] == ("in" if token in kept(probs) else "out")
        numbers = [(row["z"], z), (row["g"], g[token])]
        numbers += [(row[f"T = {t}"].strip("*"), z + t * float(g[token])) for t in TEMPERATURES[1:]]
        for shown, number in numbers:
            assert float(shown) == pytest.approx(float(number), abs=0.006)
            assert shown != "-0.00"
        ahead = row["ahead of the first from"]
        if ahead in ("", "never"):
            assert (token == first) == (ahead == "")
            assert g[token] <= g[first]
        else:
            temperature = float(ahead.removeprefix("T = "))
            below, above = (
                z + t * g[token] > t * g[first] for t in (temperature - 0.01, temperature + 0.01)
            )
            assert above and not below


@pytest.mark.parametrize(("model_seed", "seed"), SEEDS[:4])
def test_like_greedy(decoded, model_seed, seed):
    model, tokenizer, texts = decoded(model_seed, seed)
    rows = compare.like_greedy_rows(model, tokenizer, texts)
    assert [row["T"] for row in rows] == list(TEMPERATURES)
    for row in rows:
        for name, prompt in PROMPTS.items():
            cells = [row[f"{name}: {column}"] for column in ("like greedy", "drawn", "instead of")]
            text, greedy = texts[name].sampled[row["T"]].tokens, texts[name].greedy.tokens
            if text == greedy:
                assert cells == [f"all {len(text)}", "", ""]
                continue
            place = common_beginning(texts[name].sampled[row["T"]], texts[name].greedy)
            probs = (uncached(model, prompt, greedy[:place]) / row["T"]).softmax(-1)
            drawn = f"`{tokenizer.decode([text[place]])}` {ranked(text[place], probs)}"
            instead = f"`{tokenizer.decode([greedy[place]])}` {compare.percent(probs.max())}"
            assert cells == [str(place), drawn, instead]


@pytest.mark.parametrize(("model_seed", "seed"), SEEDS)
def test_rarest(decoded, model_seed, seed):
    """Some of these stories are shorter than eight tokens, or than what stands beside them."""
    model, tokenizer, texts = decoded(model_seed, seed)
    words, rows = compare.rarest(model, tokenizer, texts)
    story = texts["hedgehog"].sampled[1.0].tokens
    noise = texts["hedgehog"].sampled[10.0].tokens
    other_noise = texts["json"].sampled[10.0].tokens
    by_place = [uncached(model, [0, 1, 2], story[:n]).softmax(-1) for n in range(len(story))]
    outside = sum(token not in kept(probs) for token, probs in zip(story, by_place, strict=True))
    same = sum(map(int.__eq__, story, noise)), min(len(story), len(noise))
    both = sum(map(int.__eq__, noise, other_noise)), min(len(noise), len(other_noise))
    for part in (
        f"Of its {len(story)} tokens {outside} are outside ",
        f"; {same[0]} of {same[1]} stand in the same place in the story at T = 10.0",
        f" {both[0]} of {both[1]} in both prompts' texts",
    ):
        assert part in words
    probabilities = [float(probs[token]) for token, probs in zip(story, by_place, strict=True)]
    order = sorted(range(len(story)), key=lambda place: probabilities[place])
    assert [row["place"] - 1 for row in rows] == order[:8]
    for row in rows:
        place = row["place"] - 1
        assert row["token"] == f"`{tokenizer.decode([story[place]])}`"
        assert row["p"] == f"{probabilities[place]:.0e}"
        assert ranked(story[place], by_place[place]).endswith(f"rank {row['rank']}")
        there = [f"`{tokenizer.decode([token])}`" for token in noise[place : place + 1]]
        same = there == [row["token"]]
        assert row["T = 10.0 has there"] == ("the same" if same else "".join(there))


@pytest.mark.parametrize(("model_seed", "seed"), SEEDS[:4])
def test_removed(decoded, model_seed, seed):
    model, tokenizer, texts = decoded(model_seed, seed)
    rows = compare.removed_rows(model, tokenizer, texts)
    assert [(row["prompt"], row["setting"]) for row in rows] == [
        (name, label(*setting)) for name in PROMPTS for setting in SETTINGS
    ]
    settings_of_rows = [(name, *setting) for name in PROMPTS for setting in SETTINGS]
    for row, (name, temperature, top_p) in zip(rows, settings_of_rows, strict=True):
        text = texts[name].cut[temperature, top_p]
        others = {"like greedy": texts[name].greedy, "like uncut": texts[name].sampled[temperature]}
        for column, other in others.items():
            count = common_beginning(text, other)
            assert row[column] == (f"all {count}" if text.tokens == other.tokens else str(count))
        cells = [row[column] for column in ("removed", "drawn instead", "the paper's rule")]
        uncut = others["like uncut"].tokens
        if text.tokens == uncut:
            assert cells == ["", "", ""]
            continue
        place = int(row["like uncut"])
        logits = uncached(model, PROMPTS[name], uncut[:place]) / temperature
        probs = logits.softmax(-1)
        token, instead = uncut[place], text.tokens[place]
        papers = TopPLogitsWarper(top_p)(None, logits[None])[0].isfinite()
        assert cells == [
            f"`{tokenizer.decode([token])}` {ranked(token, probs)}",
            f"`{tokenizer.decode([instead])}` {compare.percent(probs[instead])}",
            "keeps it" if papers[token] else "removes it too",
        ]
        assert nucleus(probs[None], top_p)[0, token] == 0


def test_the_right_answer_as_the_model_sees_it(tiny, tiny_folder):
    model = tiny(5, scale=0.2, letters=None)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder(5, scale=0.2, letters=None))
    prompt = [7, 8]
    expected = {}
    for number in ("100.5", "100.50"):
        answer = f'{{"contractor": "Mike", "sum": {number}, "currency": "RUB"}}'
        tokens = tokenizer(answer + "<|im_end|>").input_ids
        logprobs = [uncached(model, prompt, tokens[:n]).log_softmax(-1) for n in range(len(tokens))]
        score = sum(float(row[token]) for row, token in zip(logprobs, tokens, strict=True))
        expected[answer] = (score, tokens, logprobs)
    answer = max(expected, key=lambda answer: expected[answer][0])
    score, tokens, logprobs = expected[answer]
    words, rows = compare.right_answer(model, tokenizer, prompt)
    assert words == f"`{answer}`, token by token"
    hard = [place for place, row in enumerate(logprobs) if row[tokens[place]] < row.max()]
    assert len(rows) == len(hard) + (len(hard) < len(tokens)) + 1
    for place, row in zip(hard, rows, strict=False):
        probs = logprobs[place].exp()
        before = tokenizer.decode(tokens[max(0, place - 4) : place])
        assert row["after"] == (f"`{before}`" if place else "the prompt")
        assert row["right"].endswith(f"` {ranked(tokens[place], probs)}")
        assert row["greedy takes"].endswith(f"` {compare.percent(probs.max())}")
        assert row["nucleus"] == ("in" if tokens[place] in kept(probs) else "out")
    a_token = f"score {score:.2f}, {score / len(tokens):.3f} a token"
    assert rows[-1]["right"] == f"1 in {compare.one_in(score)}, {a_token}"


@pytest.mark.parametrize(
    ("ranks", "shown"),
    [
        ([1, 1, 1], ["the other 3 tokens, each rank 1|34 %||in"]),
        (
            [1, 1, 2],
            ["`ab`|`c` 25 %, rank 2|`a` 70 %|out", "the other 2 tokens, each rank 1|49 %||in"],
        ),
        (
            [2, 1, 1],
            [
                "the prompt|`a` 25 %, rank 2|`b` 70 %|out",
                "the other 2 tokens, each rank 1|49 %||in",
            ],
        ),
        ([3] * 3, ["the prompt|`a` 5.0 %, rank 3|`b` 70 %|out", "`a`|`b` 5.0 %", "`ab`|`c` 5.0 %"]),
    ],
)
def test_the_rows_of_the_right_answer(tiny_folder, ranks, shown):
    """Of the answer "abc", whose tokens have these ranks."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder())
    along = []
    for token, rank in enumerate(ranks):
        others = [other for other in range(3) if other != token]
        order = [*others[: rank - 1], token, *others[rank - 1 :]]
        probs = torch.empty(3)
        probs[order] = torch.tensor([0.7, 0.25, 0.05])
        along.append(probs.log())
    *rows, whole = compare.right_answer_rows([0, 1, 2], along, tokenizer)
    assert len(rows) == len(shown)
    for row, beginning in zip(rows, shown, strict=True):
        assert "|".join(row.values()).startswith(beginning)
    assert whole["after"] == "the whole answer"


def test_texts_that_do_not_part(decoded):
    model, tokenizer, texts = decoded(0, 0)
    for each in texts.values():
        each.sampled = dict.fromkeys(TEMPERATURES, each.greedy)
        each.cut = dict.fromkeys(SETTINGS, each.greedy)
    assert compare.one_step(model, tokenizer, texts, 0) is None
    everything = [f"all {len(each.greedy.tokens)}" for each in texts.values()]
    for row in compare.like_greedy_rows(model, tokenizer, texts):
        assert list(row.values())[1:] == [everything[0], "", "", everything[1], "", ""]
    for row in compare.removed_rows(model, tokenizer, texts):
        assert list(row.values())[2:] == [everything[row["prompt"] == "json"]] * 2 + ["", "", ""]


@pytest.mark.parametrize(
    ("probability", "shown"),
    [
        *[
            (0.142, "14 %"),
            (0.0191, "1.9 %"),
            (0.3, "30 %"),
            (0.05, "5.0 %"),
            (0.0000996, "< 0.01 %"),
        ],
        *[(0.00013, "0.013 %"), (0.996, "99.6 %"), (0.9949, "99.5 %"), (0.986, "99 %")],
        *[(0.99951, "> 99.9 %"), (1.0, "> 99.9 %"), (0, "< 0.01 %")],
    ],
)
def test_percent(probability, shown):
    assert compare.percent(torch.tensor(probability)) == shown


@pytest.mark.parametrize(
    ("score", "shown"),
    [(-11.0, "60,000"), (-0.2, "1.2"), (-math.log(37), "37"), (-2000.0, "3.9e+868")],
)
def test_one_in(score, shown):
    assert compare.one_in(score) == shown


def test_how_tokens_are_shown(tiny_folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder(letters=None))

    def ids(string):
        return tokenizer(string).input_ids

    shown = [compare.shown(token, tokenizer) for token in ids(" \n\t\x1b|`<|im_end|>")]
    assert shown == ["`␣`", "`⏎`", "`⇥`", r"`\x1b`", "`|`", "`` ` ``", "`<|im_end|>`"]
    assert compare.shown(999_999, tokenizer) == "999999"
    after = {
        "one two three four five ": "`two three four five `",
        'a b "': '`a b "`',
        "": "the prompt",
    }
    after["one\ntwo"] = "`one⏎two`"
    for string, words in after.items():
        assert compare.last_words(ids(string), tokenizer) == words


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
