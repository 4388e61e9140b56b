"""Tasks 2 to 4: what is drawn, and from what."""

import pytest
import scipy.stats
import survey
import torch
from conftest import uncached
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import TopPLogitsWarper

import common
import task2_sampling
import task3_temperature
import task4_nucleus
from common import Text, draw
from task1_greedy import greedy
from task4_nucleus import nucleus

ABC = [0, 1, 2]  # the prompt "abc"


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def fits(tokens, probs):
    """Whether drawn tokens fit `probs`, by a chi-square test; rare tokens are counted together."""
    observed = torch.bincount(torch.tensor(tokens), minlength=len(probs)).double()
    assert not observed[probs == 0].any()
    expected = probs.double() / probs.double().sum() * len(tokens)
    rare = expected < 5
    observed = [*observed[~rare].tolist(), float(observed[rare].sum())]
    expected = [*expected[~rare].tolist(), float(expected[rare].sum())]
    if expected[-1] == 0:
        observed, expected = observed[:-1], expected[:-1]
    if len(expected) == 1:
        return observed == [len(tokens)]
    return scipy.stats.chisquare(observed, expected).pvalue > 0.001


def test_task3_texts_have_each_their_own_temperature(tiny):
    model = tiny(7, scale=0.2)
    temperatures = [0.3, 1.0, 4.0]
    texts = task3_temperature.sample(model, ABC, temperatures, range(4000), 1)
    logits = uncached(model, ABC, [])
    for i, temperature in enumerate(temperatures):
        tokens = [t.tokens[0] for t in texts[i::3]]
        for other in temperatures:
            assert fits(tokens, (logits / other).softmax(-1)) == (other == temperature)


def test_task4_draws_from_the_nucleus(tiny):
    model = tiny(7, scale=0.2)
    pairs = [(1.0, 0.9), (2.0, 0.4), (0.5, 0.99)]
    texts = task4_nucleus.sample(model, ABC, pairs, range(3000), 1)
    logits = uncached(model, ABC, [])
    for i, (temperature, top_p) in enumerate(pairs):
        probs = nucleus((logits / temperature).softmax(-1)[None], top_p)[0]
        assert fits([t.tokens[0] for t in texts[i::3]], probs)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_above_0_is_refused_before_anything_is_decoded(temperature):
    with pytest.raises(ValueError, match="temperature must be above 0"):
        task3_temperature.sample(None, ABC, [1.0, temperature], [0], 1)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        task4_nucleus.sample(None, ABC, [(1.0, 0.9), (temperature, 0.9)], [0], 1)


@pytest.mark.parametrize("top_p", [-0.1, 1.1, 90, float("nan")])
def test_a_top_p_that_is_no_probability_is_refused(top_p):
    with pytest.raises(ValueError, match="top_p from 0 to 1"):
        task4_nucleus.sample(None, ABC, [(1.0, 0.9), (1.0, top_p)], [0], 1)


def test_a_temperature_too_small_for_float32_is_refused(tiny):
    with pytest.raises(ValueError, match="too small for float32"):
        task3_temperature.sample(tiny(), ABC, [1.0, 1e-50], [0], 1)


def test_texts_end_at_eos_or_at_the_limit(tiny):
    endings = set()
    for seed in range(6):
        model = tiny(seed, scale=0.3)
        texts = task2_sampling.sample(model, ABC, range(3), 20)
        texts += task3_temperature.sample(model, ABC, [0.5, 1.0, 2.0], [0], 20)
        texts += task4_nucleus.sample(model, ABC, [(1.0, 0.9)], range(3), 20)
        for number, text in enumerate(texts):
            assert common.EOS not in text.tokens[:-1]
            assert text.ended or len(text.tokens) == 20
            endings.add((number // 3, text.ended))
    assert len(endings) == 6, "a task did not end both ways: the test shows nothing"


def test_the_settings_are_the_assignments():
    assert task2_sampling.SAMPLES == 3
    assert task3_temperature.TEMPERATURES == (0.001, 0.1, 0.5, 1.0, 10.0)
    assert task4_nucleus.SETTINGS == ((1.0, 0.9), (1.0, 0.15), (0.5, 0.9), (0.5, 0.15))


def test_each_step_draws_anew():
    """One generator's next token depends on nothing that it has drawn before."""
    probs = torch.tensor([[0.4, 0.3, 0.0, 0.2, 0.1]])
    texts = [Text(generator=seeded(0))]
    tokens = [int(draw(probs, texts)) for _ in range(5000)]
    pairs = [5 * one + next_one for one, next_one in zip(tokens[::2], tokens[1::2], strict=True)]
    assert fits(pairs, torch.outer(probs[0], probs[0]).flatten())


def test_the_tail_is_drawn_as_often_as_it_should():
    """Tokens of 2.9e-8 would come up far less often with exponentials in float32."""
    probs = torch.full((1, 200_001), 2.9e-8)
    probs[0, 0] = 1 - 200_000 * 2.9e-8
    texts = [Text(generator=seeded(0))]
    tail = sum(int(draw(probs, texts)) > 0 for _ in range(2000))
    assert 5 < tail < 25  # 11.6 expected, with a standard deviation of 3.4


def test_the_three_tasks_give_a_seed_the_same_text(tiny):
    """What is tested of task 3 at 1.0 holds of task 2, too."""
    for model_seed in range(6):
        model = tiny(model_seed, scale=0.3)
        by_task = [
            task2_sampling.sample(model, ABC, range(3), 40),
            task3_temperature.sample(model, ABC, [1.0], range(3), 40),
            task4_nucleus.sample(model, ABC, [(1.0, 1.0)], range(3), 40),
        ]
        first, second, third = [[text.tokens for text in texts] for texts in by_task]
        assert first == second == third


@pytest.mark.parametrize(
    ("sample", "settings"),
    [
        (lambda model, prompt, _, *rest: task2_sampling.sample(model, prompt, *rest), [None]),
        (task3_temperature.sample, [5.0, 0.5]),
        (task4_nucleus.sample, [(5.0, 0.9), (1.0, 0.5)]),
    ],
)
def test_a_text_is_the_same_alone_and_among_others(tiny, sample, settings):
    """Others, of its seed and of other seeds, end before it."""
    model = tiny(1, scale=0.3)
    together = sample(model, ABC, settings, range(4), 40)
    each = [(setting, seed) for seed in range(4) for setting in settings]
    alone = [sample(model, ABC, [setting], [seed], 40)[0] for setting, seed in each]
    assert [text.tokens for text in together] == [text.tokens for text in alone]
    assert len({len(text.tokens) for text in together}) > 2, "none ended before another"


def test_a_hotter_text_has_less_in_common_with_greedys(tiny):
    """The temperature is the weight of chance: argmax of z_i + T g_i, g_i = -ln E_i."""
    temperatures = [1e-6, 0.1, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 4.0, 10.0]
    lengths = set()
    for model_seed in range(6):
        model = tiny(model_seed, scale=0.3)
        cold = greedy(model, ABC, 40)
        for seed in range(5):
            texts = task3_temperature.sample(model, ABC, temperatures, [seed], 40)
            assert texts[0].tokens == cold.tokens
            shared = [survey.in_common(text, cold) for text in texts]
            assert shared == sorted(shared, reverse=True)
            lengths |= set(shared)
    assert len(lengths) > 10, "texts part nowhere, or at once: the test shows nothing"


SIZES = st.sampled_from([1, 2, 7, 999, 1000, 1001, 5000])


@st.composite
def distributions(choose):
    """Rows of probabilities: random, peaked, uniform, one-hot, with ties and with zeros."""
    rows = choose(st.integers(1, 4))
    size = choose(SIZES)
    random = seeded(choose(st.integers(0, 999)))
    logits = torch.randn(rows, size, generator=random) * choose(
        st.sampled_from([0, 0.01, 1, 10, 1e4])
    )
    if choose(st.booleans()):
        logits = logits.round()
    if choose(st.booleans()):
        logits[:, 1:][torch.rand(rows, size - 1, generator=random) < 0.5] = -torch.inf
    return logits.softmax(dim=-1)


@settings(deadline=None, max_examples=150)
@given(distributions(), st.one_of(st.sampled_from([1e-9, 0.15, 0.5, 0.9]), st.floats(0.01, 0.99)))
def test_nucleus(probs, top_p):
    cut = nucleus(probs, top_p)
    limit = torch.tensor(top_p, dtype=probs.dtype)
    assert cut.shape == probs.shape
    torch.testing.assert_close(cut.sum(-1), torch.ones(len(probs)))
    for before, after in zip(probs, cut, strict=True):
        kept = after > 0
        count = int(kept.sum())
        ranked = before.sort(descending=True).values
        # a prefix of the ranking, whose ratios are untouched
        torch.testing.assert_close(before[kept].sort(descending=True).values, ranked[:count])
        torch.testing.assert_close(after[kept] * before[kept].sum(), before[kept])
        mass = ranked.cumsum(-1)
        assert mass[count - 1] <= limit or count == 1
        assert count == int((ranked > 0).sum()) or mass[count] > limit


@settings(deadline=None, max_examples=150)
@given(distributions(), st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_where_the_token_drawn_is_in_the_nucleus_the_nucleus_draws_it(probs, top_p, seed):
    """Dividing by the sum does not change which p / E is the largest."""
    cut = nucleus(probs, top_p)

    def drawn(rows):
        return draw(rows, [Text(generator=seeded(seed + row)) for row in range(len(rows))])

    tokens = drawn(probs)
    kept = cut.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) > 0
    assert torch.equal(drawn(cut)[kept], tokens[kept])


def drawn_with_the_same_numbers(probs, seed):
    """The token that each row, a distribution, draws: all have the generator of one text."""
    generator = seeded(seed)
    return draw(probs, [Text(generator=generator) for _ in probs])


@settings(deadline=None, max_examples=150)
@given(SIZES, st.sampled_from([1, 10]), st.integers(0, 2**31))
def test_greedys_token_stays_drawn_as_chance_has_less_weight(size, scale, seed):
    """It is drawn at every lower temperature and with every smaller top_p.

    Distributions have no ties: topk and sort may choose otherwise there, and nuclei not nest.
    """
    logits = torch.randn(size, dtype=torch.float64, generator=seeded(seed)) * scale
    temperatures = torch.tensor([[0.01], [0.1], [0.3], [0.5], [0.8], [1.0], [1.5], [3.0], [10.0]])
    tempered = (logits / temperatures).softmax(-1)
    top_p = torch.tensor([[0.01], [0.15], [0.4], [0.6], [0.9], [0.99], [1.0]])
    probs = logits.softmax(-1).expand(len(top_p), -1)
    cut = torch.cat([nucleus(probs, top_p), probs[:1]])  # the last one whole
    for rows in (tempered, cut):
        is_greedys = drawn_with_the_same_numbers(rows, seed) == logits.argmax()
        assert is_greedys.tolist() == sorted(is_greedys.tolist(), reverse=True)


@settings(deadline=None, max_examples=150)
@example(torch.tensor([[0.6, 0.4000002] + [1e-12] * 2000]))
@given(distributions())
def test_top_p_of_1_keeps_everything(probs):
    """It may be a number, or one row's among others. A float32 sum may pass 1 before its end."""
    torch.testing.assert_close(nucleus(probs, 1.0), probs)
    assert torch.equal(nucleus(probs, 1.0) > 0, probs > 0)
    top_p = torch.full((len(probs), 1), 0.5)
    top_p[-1] = 1.0
    torch.testing.assert_close(nucleus(probs, top_p)[-1], probs[-1])
    others = nucleus(probs, top_p)[:-1].sort().values  # other ones of equal tokens may be kept
    torch.testing.assert_close(others, nucleus(probs[:-1], 0.5).sort().values)


def test_nucleus_on_known_rows():
    row = torch.tensor([[0.10, 0.50, 0.25, 0.15]])  # the example of its comments
    torch.testing.assert_close(nucleus(row, 0.85), torch.tensor([[0, 2 / 3, 1 / 3, 0]]))

    def kept(row, top_p):
        return (nucleus(torch.tensor([row], dtype=torch.float64), top_p) > 0)[0].tolist()

    assert kept([0.5, 0.25, 0.15, 0.1], 0.9) == [True, True, True, False]  # 0.9 as a double
    assert kept([0.5, 0.25, 0.25], 0.75) == [True, True, False]  # does not exceed: equal stays
    assert kept([0.6, 0.3, 0.1], 0.5) == [True, False, False]  # the first alone exceeds
    assert sum(kept([0.25] * 4, 0.5)) == 2  # ties are cut by rank
    assert sum(kept([0.25] * 4, 0.6)) == 2
    rows = torch.tensor([[0.5, 0.3, 0.2]] * 3)
    top_p = torch.tensor([[0.1], [0.85], [0.4]])  # one a row
    assert (nucleus(rows, top_p) > 0).sum(-1).tolist() == [1, 2, 1]


@pytest.mark.parametrize("top_p", [0.15, 0.5, 0.9])
def test_the_papers_rule_keeps_one_token_more(top_p):
    """transformers, like the paper, keeps the token that crosses top_p too."""
    logits = torch.randn(50, 300, generator=seeded(0)) * 2
    logits[:10, 7] += 20  # rows whose first token alone exceeds top_p
    ours = (nucleus(logits.softmax(-1), top_p) > 0).sum(-1)
    theirs = TopPLogitsWarper(top_p)(None, logits).isfinite().sum(-1)
    first_exceeds = logits.softmax(-1).amax(-1) > top_p
    assert first_exceeds.any() and (~first_exceeds).any()
    assert theirs.tolist() == torch.where(first_exceeds, ours, ours + 1).tolist()
