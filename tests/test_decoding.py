"""One step and the state of a decoding; greedy, which shows both most plainly."""

import shutil

import pytest
import torch
from conftest import generated, uncached

import common
from common import PROMPTS, Decoding, step
from task1_greedy import greedy
from task2_sampling import sample


@pytest.mark.parametrize("seed", range(6))
def test_greedy_equals_generate(tiny, seed):
    tiny(seed)
    for prompt in ("a", "hgf", "abcabcabc"):
        text = greedy(prompt, 60)
        assert text.tokens == generated(prompt, max_new_tokens=60)
        assert text.tokens == greedy(prompt, 60).tokens == greedy(prompt, 60).tokens


def test_greedy_ends_at_eos_and_at_the_limit(tiny):
    endings = set()
    for seed in range(12):
        tiny(seed)
        text = greedy("abc", 20)
        _, tokenizer = common.load(common._loaded[0])
        assert (text.tokens[-1] == tokenizer.eos_token_id) == (text.ending == "EOS")
        assert text.ending == "EOS" or len(text.tokens) == 20
        assert tokenizer.eos_token_id not in text.tokens[:-1]
        assert text.text == tokenizer.decode(text.tokens)
        endings.add(text.ending)
    assert endings == {"EOS", "limit"}


@pytest.mark.parametrize("rows", [1, 4])
def test_cached_logits_equal_uncached_ones_while_rows_leave(tiny, rows):
    tiny(1, scale=0.3)
    decoding = Decoding("abc", rows, 30)
    generator = torch.Generator().manual_seed(2)
    sizes = set()
    while decoding.open:
        logits = step(decoding)
        assert logits.dtype == torch.float32
        sizes.add(len(logits))
        for row, open_row in zip(logits, decoding.open, strict=True):
            torch.testing.assert_close(row, uncached(decoding.texts[open_row].tokens, "abc"))
        tokens = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        decoding.append(tokens[:, 0])
    assert rows == 1 or len(sizes) > 1, "no row left before the others: the test shows nothing"


def test_cached_logits_equal_uncached_ones_after_reordering(tiny):
    tiny(3, scale=0.3)
    decoding = Decoding("abc", 1, 12)
    random = torch.Generator().manual_seed(0)
    reordered = 0
    while decoding.open:
        logits = step(decoding)
        for row, open_row in zip(logits, decoding.open, strict=True):
            torch.testing.assert_close(row, uncached(decoding.texts[open_row].tokens, "abc"))
        before = [decoding.texts[row].tokens for row in decoding.open]
        parents = torch.randint(len(before), (4,), generator=random)
        tokens = torch.randint(10, (4,), generator=random)  # no EOS, which is 10
        decoding.append(tokens, parents)
        grown = [[*before[p], int(t)] for p, t in zip(parents, tokens, strict=True)]
        assert [text.tokens for text in decoding.texts] == grown
        reordered += parents.tolist() != [0, 1, 2, 3]
    assert reordered > 2


def test_log_probabilities_are_the_models_own(tiny):
    tiny(5)
    for text in sample("abc", 3, torch.Generator().manual_seed(1), 15):
        for i, (token, logprob) in enumerate(zip(text.tokens, text.logprobs, strict=True)):
            expected = uncached(text.tokens[:i], "abc").log_softmax(-1)[token]
            assert logprob == pytest.approx(float(expected), abs=1e-4)
        assert text.score == pytest.approx(sum(text.logprobs))


def test_only_what_the_cache_lacks_is_fed(tiny):
    tiny(0, scale=0.3)
    model, _ = common.load(common._loaded[0])
    shapes = []
    hook = model.register_forward_pre_hook(
        lambda _module, _args, given: shapes.append(tuple(given["input_ids"].shape)),
        with_kwargs=True,
    )
    decoding = Decoding("abcd", 3, 3)
    while decoding.open:
        step(decoding)
        decoding.append(torch.tensor([1, 2, 3]))
    hook.remove()
    assert shapes == [(1, 4), (3, 1), (3, 1)]


def test_bad_values_are_refused(tiny):
    tiny()
    for bad in ({"prompt": ""}, {"prompt": "a", "rows": 0}, {"prompt": "a", "max_new_tokens": 0}):
        with pytest.raises(ValueError):
            Decoding(**bad)


@pytest.mark.parametrize("tied", [False, True])  # the assignment's model ties its embeddings
def test_packed_layers_give_the_plain_logits(tiny, tied):
    import transformers

    folder = tiny(4, letters=None, tie_word_embeddings=tied)
    packed, tokenizer = common.load(folder)
    assert all(m.weight is None for m in packed.modules() if type(m) is torch.nn.Linear)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([tokenizer("some text").input_ids] * 3)
    with torch.no_grad():
        torch.testing.assert_close(packed(ids).logits, plain(ids).logits, atol=1e-4, rtol=1e-4)


def test_packing_a_bf16_checkpoint_keeps_its_tied_embeddings(tiny, tmp_path):
    """Converted weights are in no file: memory let go would be lost, and the head is tied."""
    import transformers

    folder = tiny(4, letters=None, tie_word_embeddings=True)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    auto = transformers.AutoModelForCausalLM
    auto.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(tmp_path)
    packed, tokenizer = common.load(str(tmp_path))
    plain = auto.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.tensor([tokenizer("some text").input_ids])
    with torch.no_grad():
        torch.testing.assert_close(packed(ids).logits, plain(ids).logits, atol=1e-4, rtol=1e-4)


def test_without_the_operator_layers_stay_plain(tiny, monkeypatch):
    import transformers

    folder = tiny(4, letters=None)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    monkeypatch.setattr(torch.ops, "mkldnn", None)
    common.pack(model)
    assert all(m.weight is not None for m in model.modules() if type(m) is torch.nn.Linear)
    assert model(torch.tensor([[1, 2]])).logits.isfinite().all()


def test_prompts_are_the_assignments():
    assert PROMPTS == {
        # copied from the assignment
        "hedgehog": "<|im_start|>system\nYou are a storyteller. Generate a story based on user message.<|im_end|>\n<|im_start|>user\nGenerate me a short story about a tiny hedgehog named Sonic.<|im_end|>\n<|im_start|>assistant\n",
        "json": '<|im_start|>system\nYou are a JSON machine. Generate a JSON with format {"contractor": string with normalized contractor name, "sum": decimal, "currency": string with uppercased 3-letter currency code} based on user message.<|im_end|>\n<|im_start|>user\nTransfer 100 rubles and 50 kopeck to Mike<|im_end|>\n<|im_start|>assistant\n',
    }
    assert common.MAX_NEW_TOKENS == 1000
    assert common.MODEL_ID == "Qwen/Qwen2.5-0.5B-Instruct"
