"""The benchmark runs: all rows of the second table, and the first one's rival."""

import benchmark
import torch
import transformers

import common
from task1_greedy import greedy


def test_every_row(tiny_folder):
    folder = tiny_folder(4, scale=0.3, letters=None, dtype=torch.bfloat16)
    head, _, *rows = benchmark.all_tasks(folder, "cpu", 3, 1).split("\n")
    assert head.startswith("| what | ours | ours with plain float32 layers | `generate()` in ")
    assert [line[:8] for line in rows] == [f"| task {number}" for number in range(1, 6)]


def test_a_models_own_settings_do_not_enter_generate(tiny_folder, capsys):
    """The assignment's model, as published, brings such ones."""
    folder = tiny_folder(9, scale=0.5, letters=None)  # no other test's: it is changed
    own = transformers.GenerationConfig(do_sample=True, top_k=20, repetition_penalty=9.0)
    own.save_pretrained(folder)
    assert not benchmark.load_rival(folder, "cpu").generation_config.do_sample
    model, tokenizer = common.load(folder)
    prompts = [tokenizer(prompt).input_ids for prompt in common.PROMPTS.values()]
    expected = [tokenizer.decode(greedy(model, prompt, 20).tokens) for prompt in prompts]
    capsys.readouterr()  # what loading has printed
    benchmark.rival_script(folder, "cpu", 20)
    assert capsys.readouterr().out == "".join(f"{text}\n" for text in expected)
