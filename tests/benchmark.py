"""Time the five tasks against generate() of transformers, in turn, in one process.

Run by hand, with nothing beside it:

    python tests/benchmark.py --model "$(python tests/offline_model.py)"

Prints a Markdown table for the story's prompt: medians for tasks 1 to 5, the rest measured once. In
tasks 1 to 4 no text may end by EOS, so that both sides do equal work; task 5 stops by itself, and its
texts are compared. generate() decodes several texts side by side only where their settings are the
same: in task 2. Elsewhere it runs text by text.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
import transformers

import common
import task1_greedy
import task2_sampling
import task3_temperature
import task4_nucleus
import task5_beam_search


def timed(call):
    """Seconds and result of a call."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def in_turn(repetitions, calls):
    """Median seconds and last result of each call; they run one after the other, again and again."""
    rounds = [[timed(call) for call in calls] for _ in range(repetitions)]
    seconds = [statistics.median(s for s, _ in runs) for runs in zip(*rounds, strict=True)]
    return seconds, [result for _, result in rounds[-1]]


def our_tasks(model, prompt, limit):
    """{name of a task: a call of ours}."""
    generator = torch.Generator().manual_seed(0)
    temperatures = task3_temperature.TEMPERATURES
    nuclei = task4_nucleus.SETTINGS

    def beams():
        searches = {}
        winners = []
        for num_beams, length_penalty in task5_beam_search.SETTINGS:
            if num_beams not in searches:
                searches[num_beams] = task5_beam_search.beam_search(model, prompt, num_beams, limit)
            winners.append(task5_beam_search.best(searches[num_beams], length_penalty).tokens)
        return winners

    return {
        "task 1, greedy": lambda: task1_greedy.greedy(model, prompt, limit),
        "task 2, 3 texts": lambda: task2_sampling.sample(model, prompt, 3, generator, limit),
        "task 3, 5 temperatures": lambda: task3_temperature.sample(
            model, prompt, temperatures, generator, limit
        ),
        "task 4, 4 settings": lambda: task4_nucleus.sample(model, prompt, nuclei, generator, limit),
        "task 5, 5 settings": beams,
    }


def generate(model, prompt, limit, **settings):
    """New tokens of generate(), a list per text. It samples from the whole distribution."""
    ids = torch.tensor([prompt], device=model.device)
    settings |= {"attention_mask": torch.ones_like(ids), "pad_token_id": 0, "top_k": 0}
    settings |= {"eos_token_id": common.EOS, "max_new_tokens": limit}
    return model.generate(ids, **settings)[:, len(prompt) :].tolist()


def rival_tasks(model, prompt, limit):
    """{name of a task: a call that does the same with generate()}."""

    def texts(settings):
        found = [generate(model, prompt, limit, **setting)[0] for setting in settings]
        assert all(len(text) == limit for text in found)

    temperatures = [
        {"do_sample": True, "temperature": temperature}
        for temperature in task3_temperature.TEMPERATURES
    ]
    nuclei = [
        {"do_sample": True, "temperature": temperature, "top_p": top_p}
        for temperature, top_p in task4_nucleus.SETTINGS
    ]

    def beams():
        winners = []
        for num_beams, length_penalty in task5_beam_search.SETTINGS:
            settings = {"num_beams": num_beams, "do_sample": False}
            if num_beams > 1:
                settings |= {"length_penalty": length_penalty, "early_stopping": True}
            winners += generate(model, prompt, limit, **settings)
        return winners

    return {
        "task 1, greedy": lambda: texts([{"do_sample": False}]),
        "task 2, 3 texts": lambda: generate(
            model, prompt, limit, do_sample=True, num_return_sequences=3
        ),
        "task 3, 5 temperatures": lambda: texts(temperatures),
        "task 4, 4 settings": lambda: texts(nuclei),
        "task 5, 5 settings": beams,
    }


def load_rival(name, device, **settings):
    """The model as the library loads it, without settings of its own for generate().

    They may sample, cut or penalise; and a config that generate() is given is filled from them.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(name, **settings)
    model.generation_config = transformers.GenerationConfig()
    return model.to(device)


def bytes_read_per_token(model, float32):
    """The weights that a step of ours reads: the linear layers', and little else."""
    layers = [layer for layer in float32.modules() if isinstance(layer, torch.nn.Linear)]
    packed = any(isinstance(layer, common.PackedLinear) for layer in model.modules())
    return sum(layer.weight.numel() for layer in layers) * (2 if packed else 4)


def peak_memory(script, model, limit):
    """Largest resident memory of a whole script, in bytes; run on a copy, which keeps outputs/."""
    program = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    with tempfile.TemporaryDirectory() as copy:
        for path in ROOT.glob("*.py"):
            shutil.copy(path, copy)
        command = [sys.executable, "-c", program, sys.executable, Path(copy, script)]
        command += ["--model", model, "--max-new-tokens", str(limit)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return int(done.stdout) * 1024


def main():
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="tests/benchmark.py", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=common.MODEL_ID)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--max-new-tokens", type=int, default=50)
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    limit = args.max_new_tokens

    ours, tokenizer = common.check_and_load(parser, args)
    prompt = tokenizer(common.PROMPTS["hedgehog"]).input_ids
    float32 = load_rival(args.model, ours.device, dtype=torch.float32)
    as_loaded = load_rival(args.model, ours.device)
    own_dtype = str(as_loaded.dtype).removeprefix("torch.")
    columns = ["ours", "`generate()` in float32", "float32 ÷ ours"]
    columns += [f"as people load it, {own_dtype}", f"{own_dtype} ÷ ours"]
    rows = []

    def add(what, *cells):
        cells = [*cells, *[""] * (len(columns) - len(cells))]
        rows.append({"what": what} | dict(zip(columns, cells, strict=True)))
        print(rows[-1], file=sys.stderr)

    float32_calls = rival_tasks(float32, prompt, limit)
    own_dtype_calls = rival_tasks(as_loaded, prompt, limit)
    real_eos = common.EOS
    for task, call in our_tasks(ours, prompt, limit).items():
        is_beam_search = task.startswith("task 5")
        common.EOS = real_eos if is_beam_search else -1  # a token that never comes
        calls = [call, float32_calls[task], own_dtype_calls[task]]
        (a, b, c), (found, expected, _) = in_turn(args.repetitions, calls)
        what = task
        if is_beam_search:
            same = sum(x == y for x, y in zip(found, expected, strict=True))
            what = f"{task} ({same} of 5 texts the same as in float32)"
        add(what, f"{a:.1f} s", f"{b:.1f} s", f"{b / a:.1f}", f"{c:.1f} s", f"{c / a:.1f}")
        if task.startswith("task 1"):
            per_second = [f"{limit / a:.1f}", f"{limit / b:.1f}", "", f"{limit / c:.1f}"]
            add("task 1, tokens per second", *per_second)

    data = torch.ones(250_000_000)
    (summing,), _ = in_turn(5, [data.sum])
    bandwidth = data.nbytes / summing
    bound = bandwidth / bytes_read_per_token(ours, float32)
    what = f"task 1, tokens per second that {bandwidth / 1e9:.0f} GB/s of memory allow at most"
    add(what, f"{bound:.1f}")
    del data

    common.EOS = -1
    half, _ = timed(lambda: task1_greedy.greedy(ours, prompt, 500))
    whole, _ = timed(lambda: task1_greedy.greedy(ours, prompt, 1000))
    add("greedy, seconds for 1000 tokens ÷ for 500", f"{whole / half:.2f}")

    weights = sum(parameter.nbytes for parameter in float32.parameters())
    peak = peak_memory("task5_beam_search.py", args.model, limit)
    add("peak memory of task 5 ÷ the weights in float32", f"{peak / weights:.2f}")
    print(common.table(rows))


if __name__ == "__main__":
    main()
