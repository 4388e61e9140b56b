"""A step, the context and its KV cache; greedy decoding, which shows them most plainly."""

import pytest
import torch
from conftest import LETTERS, generated, tiny_eos, uncached

import common
from common import Context, Text, append_tokens, step
from task1_greedy import greedy
from task5_beam_search import beam_search

ABC = [0, 1, 2]  # the prompt "abc"
EOS = tiny_eos(LETTERS)


@pytest.mark.parametrize("seed", range(6))
def test_greedy_equals_generate(tiny, seed):
    model = tiny(seed)
    for prompt in ([0], [1, 2], [7, 6, 5], ABC * 3):  # a prompt of one token has nothing to prefill
        tokens = greedy(model, prompt, 60).tokens
        assert tokens == generated(model, prompt, max_new_tokens=60)


def test_greedy_ends_at_eos_and_at_the_limit(tiny):
    endings = set()
    for seed in range(12):
        text = greedy(tiny(seed), ABC, 20)
        assert text.ended or len(text.tokens) == 20
        assert EOS not in text.tokens[:-1]
        endings.add(text.ended)
    assert endings == {True, False}


def test_a_text_ends_by_eos_alone(monkeypatch):
    monkeypatch.setattr(common, "EOS", 7)
    assert not Text().ended
    assert not Text(tokens=[7, 151645]).ended
    assert Text(tokens=[151645, 7]).ended


def test_an_extended_text_leaves_its_parent_as_it_was():
    parent = Text("setting", [1, 2], score=-1.5, cache_row=3)
    child = parent.extended(7, -2.0)
    assert child == Text("setting", [1, 2, 7], score=-3.5, cache_row=3)
    assert parent == Text("setting", [1, 2], score=-1.5, cache_row=3)


def check_logits(logits, model, prompt, texts):
    """A step's logits are those of the model that reads each whole text again, without a cache."""
    assert logits.dtype == torch.float32
    for row_logits, text in zip(logits, texts, strict=True):
        torch.testing.assert_close(row_logits, uncached(model, prompt, text.tokens))


@pytest.mark.parametrize("prompt", [[3], ABC])
def test_cached_logits_equal_uncached_ones_while_texts_leave_split_and_cross(tiny, prompt):
    model = tiny(3, scale=0.3)
    random = torch.Generator().manual_seed(0)
    context = Context(model, prompt)
    texts = [Text()]
    for count in (4, 4, 2, 5, 5, 1, 3, 3, 2):
        check_logits(step(context, texts), model, prompt, texts)
        parents = torch.randint(len(texts), (count,), generator=random).tolist()
        tokens = torch.randint(10, (count,), generator=random).tolist()
        texts = [texts[i].extended(token, 0.0) for i, token in zip(parents, tokens, strict=True)]


def test_a_text_that_was_left_out_or_got_no_token_is_refused(tiny):
    """The row of one that was left out is another text's now."""
    model = tiny(scale=0.3)
    context = Context(model, ABC)
    left_out, staying = Text(), Text()
    step(context, [left_out, staying])
    with pytest.raises(ValueError, match="must have 1 tokens, one for each step"):
        step(context, [left_out, staying])
    append_tokens([left_out, staying], torch.tensor([1, 2]))
    step(context, [staying])
    append_tokens([staying], torch.tensor([3]))
    for texts in ([left_out], [staying, left_out]):
        with pytest.raises(ValueError, match="one for each step"):
            step(context, texts)
    check_logits(step(context, [staying]), model, ABC, [staying])  # a refused step changes nothing


@pytest.mark.parametrize(
    "task", [greedy, lambda model, prompt, limit: beam_search(model, prompt, 2, limit)]
)
def test_a_model_that_gives_nan_is_refused(tiny, task):
    """A fault of MPS did so in the middle of a text: argmax and topk would go on with token 0."""
    model = tiny(scale=0.3)
    steps = []

    def spoil(_module, _arguments, output):
        if output.shape[1] == 1:  # a step, not the prefill
            steps.append(output)
        if len(steps) == 3:
            output[-1, -1] = torch.nan

    model.lm_head.register_forward_hook(spoil)
    with pytest.raises(ValueError, match="the model gave NaN.* on cpu"):
        task(model, ABC, 9)
    assert len(steps) == 3


def test_logits_are_an_ordinary_tensor_without_a_graph(tiny):
    """The weights ask for gradients all the same. What the cache keeps has no graph either."""
    model = tiny(scale=0.3)
    assert all(weight.requires_grad for weight in model.parameters())
    context = Context(model, ABC)
    assert not context.cache.layers[0].keys.requires_grad
    logits = step(context, [Text()])
    assert not logits.requires_grad
    logits[:, 0] = -torch.inf  # what every top-k in the wild does


def test_every_token_is_read_once(tiny):
    model = tiny(0, scale=0.3)
    shapes = []
    model.register_forward_pre_hook(
        lambda _module, _args, given: shapes.append(tuple(given["input_ids"].shape)),
        with_kwargs=True,
    )
    context = Context(model, [0, 1, 2, 3])
    texts = [Text() for _ in range(3)]
    for _ in range(3):
        step(context, texts)
        append_tokens(texts, torch.tensor([1, 2, 3]))
    assert shapes == [(1, 3), (3, 1), (3, 1), (3, 1)]


def test_the_cache_is_copied_only_when_texts_move(tiny, monkeypatch):
    context = Context(tiny(0, scale=0.3), ABC)
    copied = []
    select = context.cache.batch_select_indices

    def watched(rows):
        copied.append(rows.tolist())
        select(rows)

    monkeypatch.setattr(context.cache, "batch_select_indices", watched)
    texts = [Text() for _ in range(3)]
    for leaving in (None, None, 1, None):
        step(context, texts)
        append_tokens(texts, torch.tensor([1, 2, 3])[: len(texts)])
        texts = [text for i, text in enumerate(texts) if i != leaving]
    assert copied == [[0, 0, 0], [0, 2]]


def test_prompts_and_constants_are_the_assignments():
    assert common.PROMPTS == {
        "hedgehog": "<|im_start|>system\nYou are a storyteller. Generate a story based on user message.<|im_end|>\n<|im_start|>user\nGenerate me a short story about a tiny hedgehog named Sonic.<|im_end|>\n<|im_start|>assistant\n",  # noqa: E501
        "json": '<|im_start|>system\nYou are a JSON machine. Generate a JSON with format {"contractor": string with normalized contractor name, "sum": decimal, "currency": string with uppercased 3-letter currency code} based on user message.<|im_end|>\n<|im_start|>user\nTransfer 100 rubles and 50 kopeck to Mike<|im_end|>\n<|im_start|>assistant\n',  # noqa: E501
    }
    assert common.MAX_NEW_TOKENS == 1000
    assert common.EOS == 151645
    assert common.MODEL_ID == "Qwen/Qwen2.5-0.5B-Instruct"
