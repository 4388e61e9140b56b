"""The benchmark runs, all rows of its second table."""

import benchmark
import torch


def test_every_row(tiny_folder):
    folder = tiny_folder(4, scale=0.3, letters=None, dtype=torch.bfloat16)
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
