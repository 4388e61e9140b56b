"""What only a real model shows. One file, so that one process loads it."""

import pytest
from conftest import generated

from common import PROMPTS, Decoding, step
from task1_greedy import greedy
from task5_beam_search import SETTINGS, best, search


@pytest.mark.offline
def test_offline_eos_and_the_assignments_example(offline):
    _, tokenizer = offline
    assert tokenizer.eos_token_id == 151645
    ids = [4913, 20257, 269, 788, 330, 34441, 497, 330, 1242, 788, 220, 16, 15, 20, 11, 330]
    ids += [15973, 788, 330, 59430, 9207, 151645]
    assert (
        tokenizer.decode(ids) == '{"contractor": "Mike", "sum": 105, "currency": "rub"}<|im_end|>'
    )
    assert tokenizer(PROMPTS["json"]).input_ids[0] == 151644  # one token, not its letters


@pytest.mark.offline
def test_offline_greedy_equals_generate(offline):
    assert greedy(PROMPTS["json"]).tokens == generated(PROMPTS["json"], max_new_tokens=1000)
    story = greedy(PROMPTS["hedgehog"], 120).tokens
    assert len(story) >= 100
    assert story == generated(PROMPTS["hedgehog"], max_new_tokens=120)


@pytest.mark.offline
def test_offline_rows_get_what_they_get_alone(offline):
    alone = greedy(PROMPTS["hedgehog"], 40).tokens
    decoding = Decoding(PROMPTS["hedgehog"], 8, 40)
    while decoding.open:
        decoding.append(step(decoding).argmax(-1))
    assert [text.tokens for text in decoding.texts] == [alone] * 8


@pytest.mark.offline
def test_offline_json_equals_generate(offline):
    for num_beams, penalty in SETTINGS:
        ours = best(search(PROMPTS["json"], num_beams), penalty).tokens
        settings = {"num_beams": num_beams, "max_new_tokens": 1000}
        if num_beams > 1:
            settings |= {"length_penalty": penalty, "early_stopping": True}
        assert ours == generated(PROMPTS["json"], **settings)
