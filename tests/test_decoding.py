"""A step, the batch and its KV cache; greedy decoding, which shows them most plainly."""

import pytest
import torch
from conftest import generated, uncached

import common
from common import Batch, Text, TextBatch, step
from task1_greedy import greedy
from task2_sampling import sample

ABC = [0, 1, 2]  # the prompt "abc"
EOS = 10


@pytest.mark.parametrize("seed", range(6))
def test_greedy_equals_generate(tiny, seed):
    model = tiny(seed)
    for prompt in ([0], [1, 2], [7, 6, 5], ABC * 3):  # a prompt of one token has nothing to prefill
        text = greedy(model, prompt, 60)
        assert text.tokens == generated(model, prompt, max_new_tokens=60)
        assert text.tokens == greedy(model, prompt, 60).tokens == greedy(model, prompt, 60).tokens


def test_greedy_ends_at_eos_and_at_the_limit(tiny):
    endings = set()
    for seed in range(12):
        text = greedy(tiny(seed), ABC, 20)
        assert (text.tokens[-1] == EOS) == (text.ending == "EOS")
        assert text.ending == "EOS" or len(text.tokens) == 20
        assert EOS not in text.tokens[:-1]
        endings.add(text.ending)
    assert endings == {"EOS", "limit"}


@pytest.mark.parametrize("rows", [1, 4])
def test_cached_logits_equal_uncached_ones_while_rows_leave(tiny, rows):
    model = tiny(1, scale=0.3)
    texts = [Text() for _ in range(rows)]
    batch = TextBatch(model, ABC, texts, 30)
    generator = torch.Generator().manual_seed(2)
    sizes = set()
    while batch.unfinished:
        logits = step(batch)
        assert logits.dtype == torch.float32
        sizes.add(len(logits))
        for row_logits, index in zip(logits, batch.unfinished, strict=True):
            torch.testing.assert_close(row_logits, uncached(model, ABC, texts[index].tokens))
        batch.append(torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0])
    assert rows == 1 or len(sizes) > 1, "no row left before the others: the test shows nothing"


@pytest.mark.parametrize("prompt", [[3], ABC])
def test_cached_logits_equal_uncached_ones_while_rows_cross(tiny, prompt):
    model = tiny(3, scale=0.3)
    batch = Batch(model, prompt)
    random = torch.Generator().manual_seed(0)
    rows = [[]]  # the tokens of each row so far
    for count in (4, 4, 2, 5, 5, 1, 3, 3, 2):
        logits = step(batch)
        for row_logits, tokens in zip(logits, rows, strict=True):
            torch.testing.assert_close(row_logits, uncached(model, prompt, tokens))
        cache_rows = torch.randint(len(rows), (count,), generator=random).tolist()
        next_tokens = torch.randint(10, (count,), generator=random).tolist()
        batch.set_next(cache_rows, next_tokens)
        rows = [[*rows[r], t] for r, t in zip(cache_rows, next_tokens, strict=True)]


def test_log_probabilities_are_the_models_own(tiny):
    model = tiny(5)
    for text in sample(model, ABC, 3, torch.Generator().manual_seed(1), 15):
        for i, (token, logprob) in enumerate(zip(text.tokens, text.logprobs, strict=True)):
            expected = uncached(model, ABC, text.tokens[:i]).log_softmax(-1)[token]
            assert logprob == pytest.approx(float(expected), abs=1e-4)


def test_every_token_is_read_once(tiny):
    model = tiny(0, scale=0.3)
    shapes = []
    model.register_forward_pre_hook(
        lambda _module, _args, given: shapes.append(tuple(given["input_ids"].shape)),
        with_kwargs=True,
    )
    batch = TextBatch(model, [0, 1, 2, 3], [Text() for _ in range(3)], 3)
    while batch.unfinished:
        step(batch)
        batch.append(torch.tensor([1, 2, 3]))
    assert shapes == [(1, 3), (3, 1), (3, 1), (3, 1)]


def test_bad_values_are_refused(tiny):
    model = tiny()
    for bad in ({"prompt": []}, {"prompt": [0], "rows": 0}, {"prompt": [0], "max_new_tokens": 0}):
        with pytest.raises(ValueError, match="nothing to generate"):
            Batch(model, **bad)


def test_prompts_and_constants_are_the_assignments():
    assert common.PROMPTS == {
        # copied from the assignment
        "hedgehog": "<|im_start|>system\nYou are a storyteller. Generate a story based on user message.<|im_end|>\n<|im_start|>user\nGenerate me a short story about a tiny hedgehog named Sonic.<|im_end|>\n<|im_start|>assistant\n",
        "json": '<|im_start|>system\nYou are a JSON machine. Generate a JSON with format {"contractor": string with normalized contractor name, "sum": decimal, "currency": string with uppercased 3-letter currency code} based on user message.<|im_end|>\n<|im_start|>user\nTransfer 100 rubles and 50 kopeck to Mike<|im_end|>\n<|im_start|>assistant\n',
    }
    assert common.MAX_NEW_TOKENS == 1000
    assert common.MODEL_ID == "Qwen/Qwen2.5-0.5B-Instruct"
