"""The benchmark runs: all rows of the second table, and the first one's rival."""

import benchmark
import torch
import transformers


def test_every_row(tiny_folder):
    folder = tiny_folder(4, scale=0.3, letters=None, dtype=torch.bfloat16)
    head, _, *rows = benchmark.all_tasks(folder, "cpu", 3, 1).split("\n")
    assert head.startswith("| what | ours | ours with plain float32 layers | `generate()` in ")
    assert [line[:8] for line in rows] == [f"| task {number}" for number in range(1, 6)]


def test_a_models_own_settings_do_not_enter_generate(tiny_folder):
    """The assignment's model, as published, brings such ones."""
    folder = tiny_folder(9, scale=0.5, letters=None)  # no other test's: it is changed
    transformers.GenerationConfig(do_sample=True, top_k=20).save_pretrained(folder)
    assert not benchmark.load_rival(folder, "cpu").generation_config.do_sample
    benchmark.rival_script(folder, "cpu", 3)
