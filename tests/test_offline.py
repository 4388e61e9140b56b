"""What only a real model shows, the stand-in. One file, so that one process loads it."""

import pytest
import torch
import transformers
from conftest import generated

from common import PROMPTS
from task1_greedy import greedy
from task5_beam_search import SETTINGS, beam_search, best

pytestmark = pytest.mark.offline


def prompt_ids(tokenizer, name):
    return tokenizer(PROMPTS[name]).input_ids


@pytest.fixture(scope="module")
def plain(offline_folder):
    """The library's own model, in float32: the oracle."""
    auto = transformers.AutoModelForCausalLM
    return auto.from_pretrained(offline_folder, dtype=torch.float32)


def test_greedy_equals_generate(offline, plain):
    """Its layers are packed, and the library's are plain."""
    model, tokenizer = offline
    prompt = prompt_ids(tokenizer, "json")
    assert greedy(model, prompt).tokens == generated(plain, prompt, max_new_tokens=1000)
    prompt = prompt_ids(tokenizer, "hedgehog")
    story = greedy(model, prompt, 120).tokens
    assert len(story) >= 100
    assert story == generated(plain, prompt, max_new_tokens=120)


def test_json_equals_generate(offline, plain):
    model, tokenizer = offline
    prompt = prompt_ids(tokenizer, "json")
    for num_beams, penalty in SETTINGS:
        ours = best(beam_search(model, prompt, num_beams), penalty).tokens
        settings = {"num_beams": num_beams, "max_new_tokens": 1000}
        if num_beams > 1:
            settings |= {"length_penalty": penalty, "early_stopping": True}
        assert ours == generated(plain, prompt, **settings)
