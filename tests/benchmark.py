"""Time the five tasks against generate() of transformers, in turn.

Run by hand, with nothing beside it:

    python tests/benchmark.py --model "$(python tests/offline_model.py)"

Prints two Markdown tables. The first, or with --whole-command the only one: task 1 from the start
of Python to the second text, at most 250 tokens each, against a script that calls generate() (and,
where the model is not a folder, asks the Hub). Texts end at EOS, which the two sides may reach
after different numbers of tokens.

The second: the story's prompt, the models loaded before; medians. No text ends by EOS, so that all
do equal work. Its third column, our loops over the library's float32 model, shows what packing
gives on an x86 CPU. generate() decodes several texts side by side only where their settings are the
same: in task 2. Elsewhere it runs text by text; in task 5, where one search of ours serves all
penalties, it searches five times, we three times.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
import transformers

import common
import task1_greedy as task1
import task2_sampling as task2
import task3_temperature as task3
import task4_nucleus as task4
import task5_beam_search as task5


def in_turn(repetitions, calls):
    """Median seconds of each call; in each round all run, one after the other."""
    seconds = [[] for _ in calls]
    for _ in range(repetitions):
        for call, seconds_of_call in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            seconds_of_call.append(time.perf_counter() - start)
    return [statistics.median(numbers) for numbers in seconds]


def load_rival(name, device, **settings):
    """The model as the library loads it, without settings of its own for generate().

    They may sample, cut or penalise; and a config that generate() is given is filled from them.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(name, **settings)
    model.generation_config = transformers.GenerationConfig()
    return model.to(device)


def generate(model, prompt, limit, **settings):
    """New tokens of generate(), a list per text. Its default, top_k=50, is switched off."""
    ids = torch.tensor([prompt], device=model.device)
    settings |= {"attention_mask": torch.ones_like(ids), "pad_token_id": 0, "top_k": 0}
    settings |= {"eos_token_id": common.EOS, "max_new_tokens": limit}
    return model.generate(ids, **settings)[:, len(prompt) :].tolist()


def rival_script(name, device, limit):
    """Task 1 as people write it: what `--rival` runs."""
    model = load_rival(name, device)
    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    for input_text in common.PROMPTS.values():
        prompt = tokenizer(input_text).input_ids
        (tokens,) = generate(model, prompt, limit, do_sample=False)
        print(tokenizer.decode(tokens))


def whole_command(name, device, repetitions):
    """The first table, of one row."""

    def run(*script):
        command = [sys.executable, *script, "--model", name, "--device", device]
        command += ["--max-new-tokens", "250"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)

    with tempfile.TemporaryDirectory() as copy:  # the scripts write outputs/ beside themselves
        for path in ROOT.glob("*.py"):
            shutil.copy(path, copy)
        calls = [lambda: run(Path(copy, "task1_greedy.py")), lambda: run(__file__, "--rival")]
        ours, rival = in_turn(repetitions, calls)
    row = {"what": "task 1 as a whole command, both prompts"}
    row |= {"ours": f"{ours:.1f} s", "a script of `generate()`": f"{rival:.1f} s"}
    return common.table([row | {"`generate()` ÷ ours": f"{rival / ours:.2f}"}])


class Task(NamedTuple):
    """What a row of the second table compares."""

    name: str
    ours: Callable  # it takes a model, a prompt and a limit
    settings: list  # generate() decodes the same in as many calls, with these keyword arguments


def beam_searches(model, prompt, limit):
    """What task 5 decodes: one search serves all penalties."""
    for num_beams in sorted({num_beams for num_beams, _ in task5.SETTINGS}):
        task5.beam_search(model, prompt, num_beams, limit)


def tasks():
    """The five tasks."""
    sampled = {"do_sample": True}
    three_texts = sampled | {"num_return_sequences": task2.SAMPLES}
    temperatures = [sampled | {"temperature": t} for t in task3.TEMPERATURES]
    nuclei = [sampled | {"temperature": t, "top_p": top_p} for t, top_p in task4.SETTINGS]
    beams = [
        {"num_beams": size, "length_penalty": penalty, "early_stopping": size > 1}
        for size, penalty in task5.SETTINGS
    ]

    def sample_task2(model, prompt, limit):
        task2.sample(model, prompt, range(task2.SAMPLES), limit)

    def sample_task3(model, prompt, limit):
        task3.sample(model, prompt, task3.TEMPERATURES, [0], limit)

    def sample_task4(model, prompt, limit):
        task4.sample(model, prompt, task4.SETTINGS, [0], limit)

    return [
        Task("task 1, greedy", task1.greedy, [{}]),
        Task("task 2, 3 texts", sample_task2, [three_texts]),
        Task("task 3, 5 temperatures", sample_task3, temperatures),
        Task("task 4, 4 settings", sample_task4, nuclei),
        Task("task 5, 5 settings", beam_searches, beams),
    ]


def generate_each(model, prompt, limit, settings):
    """A call of generate() for each of the settings."""
    for each in settings:
        generate(model, prompt, limit, **each)


def all_tasks(name, device, limit, repetitions):
    """The second table: a row for each task."""
    model, tokenizer = common.load(name, device)
    prompt = tokenizer(common.PROMPTS["hedgehog"]).input_ids
    float32 = load_rival(name, device, dtype=torch.float32)
    as_loaded = load_rival(name, device)
    rows = []
    with patch.object(common, "EOS", -1):  # a token that never comes
        for task in tasks():
            calls = [partial(task.ours, loaded, prompt, limit) for loaded in (model, float32)]
            calls += [
                partial(generate_each, rival, prompt, limit, task.settings)
                for rival in (float32, as_loaded)
            ]
            ours, plain, *theirs = in_turn(repetitions, calls)
            row = {
                "what": task.name,
                "ours": f"{ours:.1f} s",
                "ours with plain float32 layers": f"{plain:.1f} s",
                "`generate()` in float32": f"{theirs[0]:.1f} s",
                "`generate()` as people load it": f"{theirs[1]:.1f} s",
                "the faster `generate()` ÷ ours": f"{min(theirs) / ours:.1f}",
            }
            print(row, file=sys.stderr)
            rows.append(row)
    return common.table(rows)


def main():
    """Measure, and print the tables."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    parser = argparse.ArgumentParser(prog="tests/benchmark.py", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=common.MODEL_ID)
    parser.add_argument("--device", default=str(accelerator or "cpu"))
    parser.add_argument("--max-new-tokens", type=int, default=50, help="of the second table")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--whole-command", action="store_true", help="the first table alone")
    # Be the first table's other script.
    parser.add_argument("--rival", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rival:
        return rival_script(args.model, args.device, args.max_new_tokens)
    print(whole_command(args.model, args.device, args.repetitions), end="\n\n", flush=True)
    if not args.whole_command:
        print(all_tasks(args.model, args.device, args.max_new_tokens, args.repetitions))


if __name__ == "__main__":
    main()
