"""Models for the tests: tiny random ones, made here, and the offline model."""

import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import common

common.DEVICE = "cpu"  # where the oracles are, and where layers are packed
transformers.utils.logging.set_verbosity_error()
THREADS = torch.get_num_threads()
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def make_tiny(folder, seed=0, letters=None, scale=1.0, **config):
    """Save a random Qwen2 with a byte tokenizer (all bytes, or `letters` alone) in `folder`."""
    alphabet = sorted(letters or tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(alphabet + SPECIAL)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    settings = transformers.Qwen2Config(
        vocab_size=len(vocabulary),
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=scale,
        eos_token_id=vocabulary["<|im_end|>"],
        pad_token_id=vocabulary["<|endoftext|>"],
        **(sizes | config),
    )
    transformers.Qwen2ForCausalLM(settings).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A function that makes a tiny model, makes it the one in use, and returns its folder."""
    made = {}

    def make(seed=0, letters="abcdefgh", **settings):
        key = (seed, letters, *sorted(settings.items()))
        if key not in made:
            made[key] = make_tiny(tmp_path_factory.mktemp("tiny"), seed, letters, **settings)
        common.load(made[key])
        torch.set_num_threads(1)  # tiny matrices: a second thread only waits
        return made[key]

    return make


@pytest.fixture(scope="session")
def offline_folder():
    command = [sys.executable, ROOT / "tests" / "offline_model.py"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@pytest.fixture
def offline(offline_folder):
    """The offline model in use: (model, tokenizer)."""
    torch.set_num_threads(THREADS)
    return common.load(offline_folder)


def uncached(tokens, prompt):
    """Next-token logits (vocabulary,) after `prompt` and `tokens`, the whole text read again."""
    model, tokenizer = common.load(common._loaded[0])
    ids = torch.tensor([tokenizer(prompt).input_ids + tokens])
    with torch.no_grad():
        return model(input_ids=ids).logits[0, -1]


def generated(prompt, **settings):
    """New tokens of the transformers library's own generate() with the model in use."""
    model, tokenizer = common.load(common._loaded[0])
    ids = torch.tensor([tokenizer(prompt).input_ids])
    eos = tokenizer.eos_token_id
    settings |= {"do_sample": False, "eos_token_id": eos, "pad_token_id": eos}
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    return out[0, ids.shape[1] :].tolist()
