"""The benchmark: its rows, and a rival that does what the tasks do, and no more."""

import benchmark
import torch
import transformers

import common


def test_a_models_own_settings_do_not_enter_generate(tiny_folder):
    """The assignment's model, as published, brings such ones."""
    folder = tiny_folder(9)
    own = {"do_sample": True, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.1}
    transformers.GenerationConfig(**own).save_pretrained(folder)
    model = benchmark.load_rival(folder, "cpu")
    make_processors = model._get_logits_processor
    made = []

    def watched(*args, **settings):
        processors = make_processors(*args, **settings)
        made.append(list(processors))
        return processors

    model._get_logits_processor = watched
    benchmark.generate(model, [0, 1, 2], 5, do_sample=True)
    assert made == [[]]  # nothing changes the logits


def test_every_row(tiny_folder):
    folder = tiny_folder(4, scale=0.3, letters=None, dtype=torch.bfloat16)
    eos = common.EOS
    head, _, *rows = benchmark.all_tasks(folder, "cpu", 3, 1).split("\n")
    assert head.startswith("| what | ours | `generate()` in float32 | float32 ÷ ours | ")
    first_cells = [line.split(" | ")[0].removeprefix("| ") for line in rows]
    assert first_cells == [
        "task 1, greedy",
        "task 2, 3 texts",
        "task 3, 5 temperatures",
        "task 4, 4 settings",
        "task 5, 5 settings",
        "greedy, seconds for 60 tokens ÷ for 30",
    ]
    assert common.EOS == eos
