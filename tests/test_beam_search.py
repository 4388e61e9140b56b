"""Task 5, against a literal transcription of the assignment and against generate()."""

import math

import pytest
import torch
from conftest import generated, uncached

import common
import task5_beam_search
from common import Text
from task1_greedy import greedy
from task5_beam_search import SETTINGS, beam_search, best

ABC = [0, 1, 2]
EOS = 10


def literal(model, num_beams, limit):
    """The assignment's steps 2 to 8, slow and without a cache; one number per text: its score.

    Returns the finished candidates (tokens, score), and whether num_beams candidates were
    unfinished after every step (where not, generate(), which looks further, may differ).
    """

    def continuations(tokens, score):
        logprobs, ids = uncached(model, ABC, tokens).log_softmax(-1).topk(num_beams)
        pairs = zip(logprobs.tolist(), ids.tolist(), strict=True)
        return [([*tokens, token], score + logprob) for logprob, token in pairs]

    unfinished, finished, full = [([], 0.0)], [], True
    while True:
        ranked = [c for parent in unfinished for c in continuations(*parent)]
        ranked.sort(key=lambda candidate: -candidate[1])
        finished += [c for c in ranked[:num_beams] if c[0][-1] == EOS]
        unfinished = [c for c in ranked if c[0][-1] != EOS][:num_beams]
        full &= len(unfinished) == num_beams
        if len(ranked[0][0]) == limit:
            return finished + unfinished, full
        if len(finished) >= num_beams:
            return finished, full


def parity_model(tiny, seed):
    return tiny(seed, scale=[0.2, 0.4, 1.0][seed % 3])


@pytest.mark.parametrize("seed", range(12))
def test_search_equals_the_assignment_and_generate(tiny, seed):
    model = parity_model(tiny, seed)
    for num_beams in (1, 2, 3, 4, 5, 8):
        expected, full = literal(model, num_beams, 15)
        found = beam_search(model, ABC, num_beams, 15)
        assert sorted(t.tokens for t in found) == sorted(tokens for tokens, _ in expected)
        scores = {tuple(tokens): score for tokens, score in expected}
        for text in found:
            assert text.score == pytest.approx(scores[tuple(text.tokens)], abs=1e-3)
            assert text.ending == ("EOS" if text.tokens[-1] == EOS else "limit")
        for penalty in (-1.0, 0.0, 0.5, 1.0, 2.0):
            winner = max(expected, key=lambda c: c[1] / len(c[0]) ** penalty)
            assert best(found, penalty).tokens == winner[0]
            if full and num_beams > 1 and penalty > 0:
                settings = {"early_stopping": True, "length_penalty": penalty}
                assert winner[0] == generated(
                    model, ABC, num_beams=num_beams, max_new_tokens=15, **settings
                )


def test_models_of_the_parity_test_cover_the_cases(tiny):
    """EOS inside the search, the limit, and full steps, where generate() must agree, all occur."""
    endings, fulls = set(), set()
    for seed in range(12):
        expected, full = literal(parity_model(tiny, seed), 4, 15)
        fulls.add(full)
        endings |= {tokens[-1] == EOS for tokens, _ in expected}
    assert endings == {True, False}
    assert fulls == {True, False}


@pytest.mark.parametrize("seed", range(8))
def test_one_beam_is_greedy(tiny, seed):
    model = tiny(seed)
    (only,) = beam_search(model, ABC, 1, 30)
    text = greedy(model, ABC, 30)
    assert (only.tokens, only.ending) == (text.tokens, text.ending)
    assert only.logprobs == pytest.approx(text.logprobs, abs=1e-5)


def scripted(monkeypatch, table, eos):
    """Let `step` answer from a table: the tokens so far, to the probabilities of the next one."""

    class ScriptedBatch(common.Batch):
        def __init__(self, *given, **settings):
            super().__init__(*given, **settings)
            self.eos = eos
            self.rows = [()]  # the tokens of each row so far

        def set_next(self, cache_rows, next_tokens):
            super().set_next(cache_rows, next_tokens)
            if hasattr(self, "rows"):  # not while the prompt is read
                assert eos not in next_tokens, "EOS was fed back to the model"
                pairs = zip(cache_rows, next_tokens, strict=True)
                self.rows = [(*self.rows[row], token) for row, token in pairs]

    def scripted_step(batch):
        return torch.tensor([table[row] for row in batch.rows]).log()

    monkeypatch.setattr(task5_beam_search, "Batch", ScriptedBatch)
    monkeypatch.setattr(task5_beam_search, "step", scripted_step)


def test_the_assignments_own_example(tiny, monkeypatch):
    table = {
        (): [0.6, 0.3, 0.1] + [0.0] * 8,
        (0,): [0.1] + [0.09] * 10,
        (1,): [0.05, 0.9, 0.05] + [0.0] * 8,
    }
    scripted(monkeypatch, table, eos=10)
    first = best(beam_search(tiny(), ABC, 1, 2), 1.0)
    assert first.tokens == [0, 0]
    assert math.exp(first.score) == pytest.approx(0.06)
    winner = best(beam_search(tiny(), ABC, 2, 2), 1.0)
    assert winner.tokens == [1, 1]
    assert math.exp(winner.score) == pytest.approx(0.27)


def test_eos_below_rank_num_beams_is_dropped(tiny, monkeypatch):
    even = [0.25] * 4
    table = {
        (): [0.5, 0.4, 0.1, 0.0],
        (0,): [0.5, 0.1, 0.0, 0.4],  # EOS: 0.5 * 0.4 = 0.2, rank 3
        (1,): [0.0, 0.1, 0.9, 0.0],
        (0, 0): even,
        (1, 2): even,
    }
    scripted(monkeypatch, table, eos=3)
    assert [0, 3] not in [text.tokens for text in beam_search(tiny(), ABC, 2, 3)]
    table[(0,)] = [0.3, 0.1, 0.0, 0.6]  # EOS: 0.3, rank 2
    assert [0, 3] in [text.tokens for text in beam_search(tiny(), ABC, 2, 3)]


def test_a_larger_penalty_favours_the_longer_text():
    short, long = Text([1] * 2, [-1.0] * 2, "EOS"), Text([1] * 8, [-0.5] * 8, "EOS")
    assert best([short, long], 0.0) is short
    assert best([short, long], 1.0) is long
    for penalty in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="length_penalty"):
            best([short, long], penalty)


@pytest.mark.parametrize("num_beams", [0, -1, 12])
def test_bad_num_beams(tiny, num_beams):
    with pytest.raises(ValueError, match="num_beams"):
        beam_search(tiny(), ABC, num_beams)  # 11 tokens in the vocabulary


def test_as_many_beams_as_the_vocabulary(tiny):
    assert len(beam_search(tiny(scale=0.3), ABC, 11, 5)) >= 11


def test_the_settings_are_the_assignments():
    assert SETTINGS == ((1, 1.0), (4, 1.0), (4, 0.5), (4, 2.0), (8, 1.0))


def test_report_marks_the_winners_and_draws_the_search(tiny, tiny_folder):
    model, tokenizer = common.load(tiny_folder(2, letters=None, scale=0.2))
    prompt = tokenizer("abc").input_ids
    found = {num_beams: beam_search(model, prompt, num_beams, 12) for num_beams in (1, 4, 8)}
    assert task5_beam_search.ranking(found, tokenizer).count("**") == 2 * len(SETTINGS)
    lines = task5_beam_search.picture(model, tokenizer, prompt).split("\n")
    assert lines[0] == "```mermaid" and lines[-1] == "```"
    arrows = [line.partition("([")[0].split(" --> ") for line in lines if "-->" in line]
    assert len(arrows) == 3 * 4  # four candidates a step
    drawn = ["start"] + [child for _, child in arrows]
    assert all(parent in drawn for parent, _ in arrows)
