"""Time the five tasks against generate() of transformers, in turn.

Run by hand, with nothing beside it:

    python tests/benchmark.py --model "$(python tests/offline_model.py)"

Prints two Markdown tables. The first, or with --whole-command the only one: task 1 from the start
of Python to the second text, at most 250 tokens each, against a script that calls generate().

The second: the story's prompt, the models being loaded; medians, the last row measured once. In
tasks 1 to 4 no text may end by EOS, so that both sides do equal work; task 5 stops by itself, and
its texts are compared. generate() decodes several texts side by side only where their settings are
the same: in task 2. Elsewhere it runs text by text.
"""

import argparse
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

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
    """Median seconds and last result of each call; in each round all run, one after the other."""
    seconds = [[] for _ in calls]
    for _ in range(repetitions):
        results = []
        for call, seconds_of_call in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            results.append(call())
            seconds_of_call.append(time.perf_counter() - start)
    return [statistics.median(numbers) for numbers in seconds], results


def load_rival(name, device, **settings):
    """The model as the library loads it, without settings of its own for generate().

    They may sample, cut or penalise; and a config that generate() is given is filled from them.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(name, **settings)
    model.generation_config = transformers.GenerationConfig()
    return model.to(device)


def generate(model, prompt, limit, **settings):
    """New tokens of generate(), a list per text. It samples from the whole distribution."""
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
    """The first table: one row, with this machine."""

    def run(*script):
        command = [sys.executable, *script, "--model", name, "--device", device]
        command += ["--max-new-tokens", "250"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)

    with tempfile.TemporaryDirectory() as copy:  # of the scripts, which write outputs/ beside them
        for path in ROOT.glob("*.py"):
            shutil.copy(path, copy)
        calls = [lambda: run(Path(copy, "task1_greedy.py")), lambda: run(__file__, "--rival")]
        (ours, rival), _ = in_turn(repetitions, calls)
    row = {"what": "task 1 as a whole command, both prompts", "machine": machine(device)}
    row |= {"ours": f"{ours:.1f} s", "a script of `generate()`": f"{rival:.1f} s"}
    return common.table([row | {"`generate()` ÷ ours": f"{rival / ours:.2f}"}])


def machine(device):
    """This machine in words: its device, its cores and, if it tells, its processor's name."""
    cpuinfo = Path("/proc/cpuinfo")  # of Linux, where Python does not know the name
    found = cpuinfo.exists() and re.search(r"model name\s*: (.+)", cpuinfo.read_text())
    name = found[1] if found else platform.processor()
    return f"{device}, {os.cpu_count()} cores, {name}, {torch.backends.cpu.get_cpu_capability()}"


def beam_searches(model, prompt, limit):
    """The best text of each setting of task 5. One search serves all penalties."""
    sizes = {num_beams for num_beams, _ in task5.SETTINGS}
    searches = {size: task5.beam_search(model, prompt, size, limit) for size in sizes}
    return [task5.best(searches[size], penalty) for size, penalty in task5.SETTINGS]


def tasks():
    """(task, our function, its further arguments, the settings of each call of `generate`)."""
    generator = torch.Generator().manual_seed(0)
    sampled = {"do_sample": True}
    temperatures = [sampled | {"temperature": t} for t in task3.TEMPERATURES]
    nuclei = [sampled | {"temperature": t, "top_p": top_p} for t, top_p in task4.SETTINGS]
    beams = [
        {"num_beams": size, "length_penalty": penalty, "early_stopping": size > 1}
        for size, penalty in task5.SETTINGS
    ]
    return [
        ("task 1, greedy", task1.greedy, [], [{}]),
        ("task 2, 3 texts", task2.sample, [3, generator], [sampled | {"num_return_sequences": 3}]),
        ("task 3, 5 temperatures", task3.sample, [task3.TEMPERATURES, generator], temperatures),
        ("task 4, 4 settings", task4.sample, [task4.SETTINGS, generator], nuclei),
        ("task 5, 5 settings", beam_searches, [], beams),
    ]


def all_tasks(name, device, limit, repetitions):
    """The second table: a row for each task, and two on greedy."""
    ours, tokenizer = common.load(name, device)
    prompt = tokenizer(common.PROMPTS["hedgehog"]).input_ids
    float32 = load_rival(name, device, dtype=torch.float32)
    as_loaded = load_rival(name, device)
    own_dtype = str(as_loaded.dtype).removeprefix("torch.")
    columns = ["what", "ours", "`generate()` in float32", "float32 ÷ ours"]
    columns += [f"as people load it, {own_dtype}", f"{own_dtype} ÷ ours"]
    rows = []

    def add(*cells):
        rows.append(dict(zip(columns, cells, strict=True)))
        print(rows[-1], file=sys.stderr)

    def texts(model, settings):
        return [text for each in settings for text in generate(model, prompt, limit, **each)]

    real_eos = common.EOS
    for task, function, arguments, settings in tasks():
        common.EOS = real_eos if task.startswith("task 5") else -1  # a token that never comes
        calls = [partial(function, ours, prompt, *arguments, limit)]
        calls += [partial(texts, float32, settings), partial(texts, as_loaded, settings)]
        (a, b, c), (found, expected, _) = in_turn(repetitions, calls)
        if task.startswith("task 5"):
            same = sum(x.tokens == y for x, y in zip(found, expected, strict=True))
            task += f" ({same} of 5 texts the same as in float32)"
        add(task, f"{a:.1f} s", f"{b:.1f} s", f"{b / a:.1f}", f"{c:.1f} s", f"{c / a:.1f}")
        if task.startswith("task 1"):
            speeds = [f"{limit / seconds:.1f}" for seconds in (a, b, c)]
            add("task 1, tokens per second", speeds[0], speeds[1], "", speeds[2], "")

    common.EOS = -1
    (half, whole), _ = in_turn(1, [partial(task1.greedy, ours, prompt, n) for n in (500, 1000)])
    add("greedy, seconds for 1000 tokens ÷ for 500", f"{whole / half:.2f}", "", "", "", "")
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
    parser.add_argument("--rival", action="store_true", help="be the first table's other script")
    args = parser.parse_args()
    if args.rival:
        return rival_script(args.model, args.device, args.max_new_tokens)
    print(whole_command(args.model, args.device, args.repetitions), end="\n\n", flush=True)
    if not args.whole_command:
        print(all_tasks(args.model, args.device, args.max_new_tokens, args.repetitions))


if __name__ == "__main__":
    main()
