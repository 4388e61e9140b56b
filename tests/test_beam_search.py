"""Task 5, against a literal transcription of the assignment and against generate()."""

import math

import pytest
import torch
from conftest import LETTERS, generated, tiny_eos, uncached

import common
import task5_beam_search
from task5_beam_search import SETTINGS, beam_search, best

ABC = [0, 1, 2]  # the prompt "abc"
EOS = tiny_eos(LETTERS)


def literal(model, num_beams, limit):
    """The assignment's steps 2 to 8, slow and without a cache.

    Step 7 is read as the script reads it: EOS below rank num_beams is dropped.

    Returns the finished candidates (tokens, score), at the limit the unfinished ones if none has
    finished; and whether generate() must find the same. It need not in two cases: after some step
    fewer than num_beams are unfinished (it looks further), or some have finished when the limit
    comes (it counts the unfinished ones, too).
    """

    def continuations(tokens, score):
        logprobs, ids = uncached(model, ABC, tokens).log_softmax(-1).topk(num_beams)
        pairs = zip(logprobs.tolist(), ids.tolist(), strict=True)
        return [([*tokens, token], score + logprob) for logprob, token in pairs]

    unfinished = [([], 0.0)]
    finished = []
    same_as_generate = True
    while True:
        ranked = [c for parent in unfinished for c in continuations(*parent)]
        ranked.sort(key=lambda candidate: -candidate[1])
        finished += [c for c in ranked[:num_beams] if c[0][-1] == EOS]
        unfinished = [c for c in ranked if c[0][-1] != EOS][:num_beams]
        same_as_generate &= len(unfinished) == num_beams
        if len(ranked[0][0]) == limit:
            return finished or unfinished, same_as_generate and not finished
        if len(finished) >= num_beams:
            return finished, same_as_generate


def parity_model(tiny, seed):
    return tiny(seed, scale=[0.2, 0.4, 1.0][seed % 3])


@pytest.mark.parametrize("seed", range(12))
def test_search_equals_the_assignment_and_generate(tiny, seed):
    model = parity_model(tiny, seed)
    for num_beams in (1, 2, 3, 4, 5, 8, 11):  # 11: the whole vocabulary
        expected, same_as_generate = literal(model, num_beams, 15)
        found = beam_search(model, ABC, num_beams, 15)
        assert sorted(t.tokens for t in found) == sorted(tokens for tokens, _ in expected)
        scores = {tuple(tokens): score for tokens, score in expected}
        for text in found:
            assert text.score == pytest.approx(scores[tuple(text.tokens)], abs=1e-3)
            assert text.ended or len(text.tokens) == 15
        for penalty in (-1.0, 0.0, 0.5, 1.0, 2.0):
            winner = max(expected, key=lambda c: c[1] / len(c[0]) ** penalty)
            assert best(found, penalty).tokens == winner[0]
            if same_as_generate and num_beams > 1 and penalty > 0:
                settings = {"early_stopping": True, "length_penalty": penalty}
                assert winner[0] == generated(
                    model, ABC, num_beams=num_beams, max_new_tokens=15, **settings
                )


def test_models_of_the_parity_test_cover_the_cases(tiny):
    """EOS and the limit; searches in which generate() must agree, and in which it need not."""
    cases = set()
    for seed in range(12):
        expected, same_as_generate = literal(parity_model(tiny, seed), 4, 15)
        cases.add((expected[0][0][-1] == EOS, same_as_generate))
    assert cases >= {(True, True), (True, False), (False, True)}


def scripted_search(monkeypatch, table, eos, num_beams, limit):
    """A search whose steps come from a table: the tokens so far, to the probabilities of the next.

    Returns what it finds, and the texts of each step.
    """
    read = []

    def scripted_step(_context, texts):
        assert not any(text.ended for text in texts), "EOS was fed back to the model"
        read.append([tuple(text.tokens) for text in texts])
        return torch.tensor([table[tokens] for tokens in read[-1]]).log()

    monkeypatch.setattr(common, "EOS", eos)
    monkeypatch.setattr(task5_beam_search, "Context", lambda _model, _prompt: None)
    monkeypatch.setattr(task5_beam_search, "step", scripted_step)
    return beam_search(None, ABC, num_beams, limit), read


def test_the_assignments_own_example(monkeypatch):
    table = {
        (): [0.6, 0.3, 0.1] + [0.0] * 8,
        (0,): [0.1] + [0.09] * 10,
        (1,): [0.05, 0.9, 0.05] + [0.0] * 8,
    }
    found, _ = scripted_search(monkeypatch, table, eos=10, num_beams=1, limit=2)
    first = best(found, 1.0)
    assert first.tokens == [0, 0]
    assert math.exp(first.score) == pytest.approx(0.06)
    found, read = scripted_search(monkeypatch, table, eos=10, num_beams=2, limit=2)
    winner = best(found, 1.0)
    assert winner.tokens == [1, 1]
    assert math.exp(winner.score) == pytest.approx(0.27)
    assert read == [[()], [(0,), (1,)]]


def test_eos_below_rank_num_beams_is_dropped(monkeypatch):
    even = [0.25] * 4
    table = {
        (): [0.5, 0.4, 0.1, 0.0],
        (0,): [0.5, 0.1, 0.0, 0.4],  # EOS: 0.5 * 0.4 = 0.2, rank 3
        (1,): [0.0, 0.1, 0.9, 0.0],
        (0, 0): even,
        (1, 2): even,
    }
    found, _ = scripted_search(monkeypatch, table, eos=3, num_beams=2, limit=3)
    assert [0, 3] not in [text.tokens for text in found]
    table[(0,)] = [0.3, 0.1, 0.0, 0.6]  # EOS: 0.3, rank 2
    found, _ = scripted_search(monkeypatch, table, eos=3, num_beams=2, limit=3)
    assert [0, 3] in [text.tokens for text in found]


def test_the_search_stops_when_num_beams_have_finished(monkeypatch):
    even = [0.25] * 4
    table = {
        (): [0.5, 0.3, 0.0, 0.2],
        (0,): [0.3, 0.1, 0.0, 0.6],  # EOS: 0.3, rank 1
        (1,): [0.1, 0.2, 0.0, 0.7],  # EOS: 0.21, rank 2
        (0, 0): even,
        (1, 1): even,
    }
    found, read = scripted_search(monkeypatch, table, eos=3, num_beams=2, limit=9)
    assert [text.tokens for text in found] == [[0, 3], [1, 3]]  # no unfinished one beside them
    assert read == [[()], [(0,), (1,)]]


def test_at_the_limit_the_winner_is_a_finished_one(monkeypatch):
    """An unfinished one, a loop for example, may have a far better score."""
    table = {
        (): [0.5, 0.2, 0.0, 0.3],  # EOS: 0.3, rank 2
        (0,): [0.9, 0.1, 0.0, 0.0],
        (1,): [0.9, 0.1, 0.0, 0.0],
        (0, 0): [0.9, 0.1, 0.0, 0.0],
        (0, 1): [0.9, 0.1, 0.0, 0.0],
        (1, 0): [0.9, 0.1, 0.0, 0.0],
    }
    found, read = scripted_search(monkeypatch, table, eos=3, num_beams=2, limit=3)
    assert [text.tokens for text in found] == [[3]]
    assert len(read) == 3
    table[()] = [0.5, 0.4, 0.0, 0.1]
    found, _ = scripted_search(monkeypatch, table, eos=3, num_beams=2, limit=3)
    assert [text.tokens for text in found] == [[0, 0, 0], [1, 0, 0]]  # none has finished


def test_a_search_without_beams_is_refused():
    with pytest.raises(ValueError, match="num_beams must be above 0"):
        beam_search(None, ABC, 0)


def test_the_settings_are_the_assignments():
    assert SETTINGS == ((1, 1.0), (4, 1.0), (4, 0.5), (4, 2.0), (8, 1.0))
