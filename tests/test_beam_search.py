"""Task 5, against a literal transcription of the assignment and against generate()."""

import pytest
import torch
from conftest import generated, uncached

import common
import task5_beam_search
from common import Text, step
from task1_greedy import greedy
from task5_beam_search import SETTINGS, best, search


def literal(prompt, num_beams, limit, eos):
    """The assignment's steps 2 to 8, slow and without a cache; one number per text: its score.

    Returns the finished candidates (tokens, score), and whether num_beams candidates were
    unfinished after every step (where not, generate(), which looks further, may differ).
    """

    def continuations(tokens, score):
        logprobs, ids = uncached(tokens, prompt).log_softmax(-1).topk(num_beams)
        pairs = zip(logprobs.tolist(), ids.tolist(), strict=True)
        return [([*tokens, token], score + logprob) for logprob, token in pairs]

    unfinished, finished, full = [([], 0.0)], [], True
    while True:
        ranked = [c for parent in unfinished for c in continuations(*parent)]
        ranked.sort(key=lambda candidate: -candidate[1])
        finished += [c for c in ranked[:num_beams] if c[0][-1] == eos]
        unfinished = [c for c in ranked if c[0][-1] != eos][:num_beams]
        full &= len(unfinished) == num_beams
        if len(ranked[0][0]) == limit:
            return finished + unfinished, full
        if len(finished) >= num_beams:
            return finished, full


@pytest.mark.parametrize("seed", range(12))
def test_search_equals_the_assignment_and_generate(tiny, seed):
    tiny(seed, scale=[0.2, 0.4, 1.0][seed % 3])
    eos = common.load(common._loaded[0])[1].eos_token_id
    for num_beams in (1, 2, 3, 4, 5, 8):
        expected, full = literal("abc", num_beams, 15, eos)
        found = search("abc", num_beams, 15)
        assert sorted(t.tokens for t in found) == sorted(tokens for tokens, _ in expected)
        scores = {tuple(tokens): score for tokens, score in expected}
        for text in found:
            assert text.score == pytest.approx(scores[tuple(text.tokens)], abs=1e-3)
            assert text.ending == ("EOS" if text.tokens[-1] == eos else "limit")
        for penalty in (-1.0, 0.0, 0.5, 1.0, 2.0):
            winner = max(expected, key=lambda c: c[1] / len(c[0]) ** penalty)
            assert best(found, penalty).tokens == winner[0]
            if full and num_beams > 1 and penalty > 0:
                settings = {"early_stopping": True, "length_penalty": penalty}
                assert winner[0] == generated(
                    "abc", num_beams=num_beams, max_new_tokens=15, **settings
                )


def test_models_of_the_parity_test_cover_the_cases(tiny):
    """EOS inside the search, the limit, and full steps, where generate() must agree, all occur."""
    endings, fulls = set(), set()
    for seed in range(12):
        tiny(seed, scale=[0.2, 0.4, 1.0][seed % 3])
        eos = common.load(common._loaded[0])[1].eos_token_id
        expected, full = literal("abc", 4, 15, eos)
        fulls.add(full)
        endings |= {tokens[-1] == eos for tokens, _ in expected}
    assert endings == {True, False}
    assert fulls == {True, False}


@pytest.mark.parametrize("seed", range(8))
def test_one_beam_is_greedy(tiny, seed):
    tiny(seed)
    (only,) = search("abc", 1, 30)
    assert only.tokens == greedy("abc", 30).tokens


def scripted(monkeypatch, table, vocabulary=4):
    """Let `step` answer from a table of next-token probabilities by the tokens so far."""

    class Decoding(common.Decoding):
        def __init__(self, prompt, max_new_tokens):
            super().__init__(prompt, 1, max_new_tokens)
            self.eos = 3

    def fake_step(decoding):
        step(decoding)  # keeps the cache and the state true
        rows = [decoding.texts[row].tokens for row in decoding.open]
        assert all(3 not in tokens for tokens in rows), "EOS was fed back to the model"
        even = [1 / vocabulary] * vocabulary
        probs = torch.tensor([table.get(tuple(tokens), even) for tokens in rows])
        decoding.logprobs = probs.log()
        return probs.log()

    monkeypatch.setattr(task5_beam_search, "Decoding", Decoding)
    monkeypatch.setattr(task5_beam_search, "step", fake_step)


def test_the_assignments_own_example(tiny, monkeypatch):
    tiny()
    table = {
        (): [0.6, 0.3, 0.1] + [0.0] * 8,
        (0,): [0.1] + [0.09] * 10,
        (1,): [0.05, 0.9, 0.05] + [0.0] * 8,
    }
    scripted(monkeypatch, table, vocabulary=11)
    first = best(search("a", 1, 2), 1.0)
    assert first.tokens == [0, 0]
    assert first.score == pytest.approx(torch.tensor(0.6 * 0.1).log().item(), abs=1e-5)
    winner = best(search("a", 2, 2), 1.0)
    assert winner.tokens == [1, 1]
    assert winner.score == pytest.approx(torch.tensor(0.3 * 0.9).log().item(), abs=1e-5)


def test_eos_below_rank_num_beams_is_dropped(tiny, monkeypatch):
    tiny()
    table = {
        (): [0.5, 0.4, 0.1, 0.0],
        (0,): [0.5, 0.1, 0.0, 0.4],  # EOS: 0.5 * 0.4 = 0.2, rank 3
        (1,): [0.0, 0.1, 0.9, 0.0],
    }
    scripted(monkeypatch, table)
    found = search("a", 2, 4)
    assert [0, 3] not in [text.tokens for text in found]
    table[0,] = [0.3, 0.1, 0.0, 0.6]  # EOS: 0.3, rank 2
    assert [0, 3] in [text.tokens for text in search("a", 2, 4)]


def test_report_marks_the_winners_and_draws_the_search(tiny):
    tiny(2, letters=None, scale=0.2)
    found = {num_beams: search("abc", num_beams, 12) for num_beams in (1, 4, 8)}
    assert task5_beam_search.finals(found).count("**") == 2 * len(SETTINGS)
    lines = task5_beam_search.picture("abc", num_beams=4, steps=3).split("\n")
    fates = [line.rpartition(":::")[2] for line in lines if ":::" in line]
    assert len(fates) == 4 + 16 + 16
    assert fates.count("kept") == 12 - fates.count("finished")
    assert lines[0] == "```mermaid" and lines[-1] == "```"


def test_penalty_only_ranks():
    short, long = Text([1] * 2, [-1.0] * 2, ending="EOS"), Text([1] * 8, [-0.5] * 8, ending="EOS")
    assert best([short, long], 0.0) is short
    assert best([short, long], 1.0) is long
    for penalty in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="length_penalty"):
            best([short, long], penalty)


@pytest.mark.parametrize("num_beams", [0, -1, 12])
def test_bad_num_beams(tiny, num_beams):
    tiny()  # 11 tokens
    with pytest.raises(ValueError, match="num_beams"):
        search("abc", num_beams)


def test_as_many_beams_as_the_vocabulary(tiny):
    tiny(scale=0.3)
    assert len(search("abc", 11, 5)) >= 11
