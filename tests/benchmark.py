"""Time this code against generate() and against the memory's bandwidth, in turn, in one process.

Run by hand: python tests/benchmark.py --model "$(python tests/offline_model.py)"
Prints Markdown tables of medians. No text ends at EOS here, so that both sides do equal work;
only task 5 stops by itself, and its JSON texts are compared with those of generate().
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
from common import PROMPTS


def bandwidth():
    """Bytes per second that a sum over 2 GB reads: the best of five."""
    data, seconds = torch.ones(500_000_000), []
    for _ in range(5):
        start = time.perf_counter()
        data.sum()
        seconds.append(time.perf_counter() - start)
    return data.nbytes / min(seconds)


def timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(ours, theirs, repetitions):
    """Median seconds of two programs run in turn."""
    pairs = [(timed(ours), timed(theirs)) for _ in range(repetitions)]
    return [statistics.median(side) for side in zip(*pairs, strict=True)]


def uncached(ids, model, tokens):
    """The greedy loop that reads the whole text again at every step."""
    with torch.no_grad():
        for _ in range(tokens):
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
            ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)


def peak(script, model, limit):
    """Largest resident memory of a whole script, in bytes; run on a copy, which keeps outputs/."""
    program = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=-3, check=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    with tempfile.TemporaryDirectory() as copy:
        for path in ROOT.glob("*.py"):
            shutil.copy(path, copy)
        command = [sys.executable, "-c", program, sys.executable, Path(copy, script.name)]
        command += ["--model", model, "--max-new-tokens", str(limit)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return int(done.stdout) * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=common.MODEL_ID)
    parser.add_argument("--max-new-tokens", type=int, default=200)
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    limit = args.max_new_tokens

    # Two models: ours as the scripts load it, and the library's own, untouched.
    _, tokenizer = common.load(args.model)
    plain = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    plain.eval()
    weights = sum(p.nbytes for name, p in plain.named_parameters() if "embed_tokens" not in name)
    eos = tokenizer.eos_token_id
    generator = torch.Generator().manual_seed(0)

    def generate(name, tokens=limit, eos=None, **settings):
        ids = torch.tensor([tokenizer(PROMPTS[name]).input_ids])
        given = {"max_new_tokens": tokens, "eos_token_id": eos, "pad_token_id": 0, "top_k": 0}
        mask = torch.ones_like(ids)
        out = plain.generate(ids, attention_mask=mask, **(given | settings))
        return out[0, ids.shape[1] :].tolist()

    def rival(name, settings):
        for setting in settings:
            generate(name, do_sample=True, **setting)

    rows = []

    def row(what, name, ours, theirs):
        a, b = compare(ours, theirs, args.repetitions)
        rows.append({"what": what, "prompt": name, "ours, s": f"{a:.1f}"})
        rows[-1] |= {"generate(), s": f"{b:.1f}", "ratio": f"{b / a:.1f}"}
        print(rows[-1], file=sys.stderr)
        return a

    tokenizer.eos_token = None  # no text ends early
    for name, prompt in PROMPTS.items():
        what = f"greedy, {limit} tokens"
        seconds = row(
            what,
            name,
            lambda p=prompt: task1_greedy.greedy(p, limit),
            lambda n=name: generate(n, do_sample=False),
        )
        bound = bandwidth() / weights
        tasks = {
            "task 2": (lambda p: task2_sampling.sample(p, 3, generator, limit), [{}] * 3),
            "task 3": (
                lambda p: task3_temperature.sample(
                    p, task3_temperature.TEMPERATURES, generator, limit
                ),
                [{"temperature": t} for t in task3_temperature.TEMPERATURES],
            ),
            "task 4": (
                lambda p: task4_nucleus.sample(p, task4_nucleus.SETTINGS, generator, limit),
                [{"temperature": t, "top_p": p} for t, p in task4_nucleus.SETTINGS],
            ),
        }
        print(f"{limit / seconds:.1f} tokens/s, bound {bound:.1f}", file=sys.stderr)
        rows[-1]["what"] += f" ({limit / seconds:.1f}/s; memory's bound {bound:.1f}/s)"
        for what, (ours, settings) in tasks.items():
            row(what, name, lambda p=prompt, f=ours: f(p), lambda n=name, s=settings: rival(n, s))
    ids = torch.tensor([tokenizer(PROMPTS["hedgehog"]).input_ids])
    growth = []
    for tokens in (limit * 5 // 4, limit * 5 // 2, limit * 5):
        cached = timed(lambda n=tokens: task1_greedy.greedy(PROMPTS["hedgehog"], n))
        slow = timed(lambda n=tokens: uncached(ids, plain, n)) if tokens < limit * 2 else None
        growth.append({"tokens": tokens, "cached, s": f"{cached:.1f}"})
        growth[-1]["uncached, s"] = f"{slow:.1f}" if slow else "not waited for"
        print(growth[-1], file=sys.stderr)

    tokenizer.eos_token = "<|im_end|>"

    def our_beams(prompt):
        found = {b: task5_beam_search.search(prompt, b, limit) for b in (1, 4, 8)}
        pairs = task5_beam_search.SETTINGS
        return [task5_beam_search.best(found[b], p).tokens for b, p in pairs]

    def their_beams(name):
        both = []
        for beams, penalty in task5_beam_search.SETTINGS:
            given = {"length_penalty": penalty, "early_stopping": True} if beams > 1 else {}
            both.append(generate(name, eos=eos, do_sample=False, num_beams=beams, **given))
        return both

    for name, prompt in PROMPTS.items():
        pair = {}
        row(
            "task 5",
            name,
            lambda p=prompt, d=pair: d.update(ours=our_beams(p)),
            lambda n=name, d=pair: d.update(theirs=their_beams(n)),
        )
        pairs = zip(pair["ours"], pair["theirs"], strict=True)
        rows[-1]["what"] += f" ({sum(a == b for a, b in pairs)} of 5 texts the same)"
    memory = []
    for script in ("task1_greedy.py", "task5_beam_search.py"):
        ratio = peak(ROOT / script, args.model, limit) / sum(p.nbytes for p in plain.parameters())
        memory.append({"script": script, "peak memory ÷ float32 weights": f"{ratio:.2f}"})
    print(common.table(rows), common.table(growth), common.table(memory), sep="\n\n")


if __name__ == "__main__":
    main()
