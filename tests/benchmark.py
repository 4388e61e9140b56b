"""Time the scripts' loops against generate() of transformers, in turn, in one process.

Run by hand, with nothing beside it:

    python tests/benchmark.py --model "$(python tests/offline_model.py)"

Prints a Markdown table for the story's prompt: medians for tasks 1 to 5, the rest measured once. In
tasks 1 to 4 no text may end by EOS, so that both sides do equal work; task 5 stops by itself, and its
texts are compared.
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

NO_EOS = -1


def timed(call):
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def in_turn(repetitions, calls):
    """Median seconds and last result of each call; they run one after the other, again and again."""
    rounds = [[timed(call) for call in calls] for _ in range(repetitions)]
    seconds = [statistics.median(s for s, _ in runs) for runs in zip(*rounds, strict=True)]
    return seconds, [result for _, result in rounds[-1]]


def generate(model, prompt, limit, eos, **settings):
    """New tokens of generate(), sampling from the whole distribution where it samples."""
    ids = torch.tensor([prompt])
    settings = {"attention_mask": torch.ones_like(ids), "pad_token_id": 0, "top_k": 0} | settings
    out = model.generate(ids, max_new_tokens=limit, eos_token_id=eos, **settings)
    return out[0, len(prompt) :].tolist()


def our_tasks(model, prompt, limit):
    """Tasks 1 to 4: {name: a call of ours}."""
    generator = torch.Generator().manual_seed(0)
    temperatures, settings = task3_temperature.TEMPERATURES, task4_nucleus.SETTINGS
    return {
        "1, greedy": lambda: task1_greedy.greedy(model, prompt, limit),
        "2, 3 texts": lambda: task2_sampling.sample(model, prompt, 3, generator, limit),
        "3, 5 temperatures": lambda: task3_temperature.sample(
            model, prompt, temperatures, generator, limit
        ),
        "4, 4 settings": lambda: task4_nucleus.sample(model, prompt, settings, generator, limit),
    }


def rival_tasks(model, prompt, limit):
    """Tasks 1 to 4: {name: the calls of generate() that do the same}."""

    def texts(settings):
        for setting in settings:
            found = generate(model, prompt, limit, NO_EOS, do_sample=True, **setting)
            assert len(found) == limit

    temperatures = [{"temperature": t} for t in task3_temperature.TEMPERATURES]
    nuclei = [{"temperature": t, "top_p": p} for t, p in task4_nucleus.SETTINGS]
    return {
        "1, greedy": lambda: generate(model, prompt, limit, NO_EOS, do_sample=False),
        "2, 3 texts": lambda: texts([{}] * 3),
        "3, 5 temperatures": lambda: texts(temperatures),
        "4, 4 settings": lambda: texts(nuclei),
    }


def our_beams(model, prompt, limit):
    """The five winners of task 5: one search for each num_beams."""
    found = {
        beams: task5_beam_search.beam_search(model, prompt, beams, limit) for beams in (1, 4, 8)
    }
    settings = task5_beam_search.SETTINGS
    return [task5_beam_search.best(found[beams], penalty).tokens for beams, penalty in settings]


def rival_beams(model, prompt, limit, eos):
    """The same five texts from generate()."""
    winners = []
    for beams, penalty in task5_beam_search.SETTINGS:
        given = {"num_beams": beams, "do_sample": False}
        if beams > 1:
            given |= {"length_penalty": penalty, "early_stopping": True}
        winners.append(generate(model, prompt, limit, eos, **given))
    return winners


def share_of_nucleus_and_draw(model, prompt, limit):
    """The part of task 4's time that is spent in nucleus() and draw()."""
    spent = []

    def watched(function):
        def call(*given):
            seconds, result = timed(lambda: function(*given))
            spent.append(seconds)
            return result

        return call

    nucleus, draw = task4_nucleus.nucleus, task4_nucleus.draw
    task4_nucleus.nucleus, task4_nucleus.draw = watched(nucleus), watched(draw)
    whole, _ = timed(our_tasks(model, prompt, limit)["4, 4 settings"])
    task4_nucleus.nucleus, task4_nucleus.draw = nucleus, draw
    return sum(spent) / whole


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=common.MODEL_ID)
    parser.add_argument("--max-new-tokens", type=int, default=50)
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    limit, repetitions = args.max_new_tokens, args.repetitions

    ours, tokenizer = common.load(args.model)
    story = tokenizer(common.PROMPTS["hedgehog"]).input_ids
    auto = transformers.AutoModelForCausalLM
    float32 = auto.from_pretrained(args.model, dtype=torch.float32)
    as_loaded = auto.from_pretrained(args.model)
    own_dtype = str(as_loaded.dtype).removeprefix("torch.")
    rows = []

    def add(what, ours="", float32="", ratio="", as_loaded="", own_ratio=""):
        row = {"what": what, "ours": ours, "`generate()` in float32": float32, "÷ ours": ratio}
        row |= {f"as people load it, {own_dtype}": as_loaded, " ÷ ours": own_ratio}
        rows.append(row)
        print(row, file=sys.stderr)

    def compare(what, calls):
        seconds, results = in_turn(repetitions, calls)
        ratios = [f"{rival / seconds[0]:.1f}" for rival in seconds[1:]]
        shown = [f"{s:.1f} s" for s in seconds]
        add(what, shown[0], shown[1], ratios[0], shown[2], ratios[1])
        return seconds, results

    eos = ours.config.eos_token_id
    ours.config.eos_token_id = NO_EOS
    our_calls = our_tasks(ours, story, limit)
    in_float32 = rival_tasks(float32, story, limit)
    in_own_dtype = rival_tasks(as_loaded, story, limit)
    greedy_seconds = None
    for task, call in our_calls.items():
        seconds, _ = compare(f"task {task}", [call, in_float32[task], in_own_dtype[task]])
        greedy_seconds = greedy_seconds or seconds
    per_second = [f"{limit / seconds:.1f}" for seconds in greedy_seconds]

    data = torch.ones(250_000_000)
    (summing,), _ = in_turn(5, [data.sum])
    bandwidth = data.nbytes / summing
    bound = bandwidth / bytes_read_per_token(ours, float32)
    del data
    half, _ = timed(lambda: task1_greedy.greedy(ours, story, 500))
    whole, _ = timed(lambda: task1_greedy.greedy(ours, story, 1000))
    share = share_of_nucleus_and_draw(ours, story, limit)

    ours.config.eos_token_id = eos
    beams = [
        lambda: our_beams(ours, story, limit),
        lambda: rival_beams(float32, story, limit, eos),
        lambda: rival_beams(as_loaded, story, limit, eos),
    ]
    _, (found, expected, _) = compare("task 5, 5 settings", beams)
    same = sum(a == b for a, b in zip(found, expected, strict=True))
    rows[-1]["what"] += f" ({same} of 5 texts the same as in float32)"

    add("greedy, tokens per second", per_second[0], per_second[1], "", per_second[2])
    add(f"the most that {bandwidth / 1e9:.0f} GB/s of memory allow it", f"{bound:.1f}")
    add("greedy, seconds for 1000 tokens ÷ for 500", f"{whole / half:.2f}")
    add("nucleus and draw, share of task 4", f"{share:.1%}")
    weights = sum(p.nbytes for p in float32.parameters())
    peak = peak_memory("task5_beam_search.py", args.model, limit)
    add("peak memory of task 5 ÷ the weights in float32", f"{peak / weights:.2f}")
    print(common.table(rows))


if __name__ == "__main__":
    main()
