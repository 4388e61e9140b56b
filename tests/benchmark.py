"""Time this code against generate() and against the memory's bandwidth, in turn, in one process.

Run by hand: python tests/benchmark.py --model "$(python tests/offline_model.py)"
Prints Markdown tables of medians. No text ends at EOS here, so that both sides do equal work;
only task 5 stops by itself, and its texts are compared with those of generate().
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

UNCACHED = 300  # tokens: the loop without a cache is not waited for beyond them


def timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turn(repetitions, *calls):
    """Median seconds of each program; they run one after the other, again and again."""
    return [
        statistics.median(s)
        for s in zip(*([timed(call) for call in calls] for _ in range(repetitions)), strict=True)
    ]


def uncached(ids, model, tokens):
    """The greedy loop that reads the whole text again at every step."""
    with torch.no_grad():
        for _ in range(tokens):
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
            ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)


@torch.no_grad()
def products(layers):
    """The matrix products of a step, and nothing else."""
    for layer in layers:
        layer(torch.ones(1, layer.in_features))


def share_outside_the_model(limit):
    """The part of task 4's time that is not `step`: temperature, nucleus, draw and append."""
    seconds, step = [], task4_nucleus.step

    def timed_step(decoding):
        answer = []
        seconds.append(timed(lambda: answer.append(step(decoding))))
        return answer[0]

    task4_nucleus.step = timed_step
    generator = torch.Generator().manual_seed(0)
    settings = task4_nucleus.SETTINGS
    whole = timed(lambda: task4_nucleus.sample(PROMPTS["hedgehog"], settings, generator, limit))
    task4_nucleus.step = step
    return 1 - sum(seconds) / whole


def peak(script, model, limit):
    """Largest resident memory of a whole script, in bytes; run on a copy, which keeps outputs/."""
    program = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=-3, check=True);"
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
    parser.add_argument("--max-new-tokens", type=int, default=200)
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    limit, repetitions = args.max_new_tokens, args.repetitions

    # Two models: ours as the scripts load it, and the library's own, untouched.
    packed, tokenizer = common.load(args.model)
    layers = [layer for layer in packed.modules() if type(layer) is torch.nn.Linear]
    plain = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    weights = sum(p.nbytes for p in plain.parameters())
    read = sum(p.nbytes for name, p in plain.named_parameters() if "embed_tokens" not in name)
    if plain.config.tie_word_embeddings:
        read = weights
    eos, limits = tokenizer.eos_token_id, {"250 tokens": 250, "500": 500, "1000": 1000}
    generator = torch.Generator().manual_seed(0)
    ids = {name: torch.tensor([tokenizer(prompt).input_ids]) for name, prompt in PROMPTS.items()}
    rows, facts = [], []

    def generate(name, eos=None, **settings):
        given = {"max_new_tokens": limit, "eos_token_id": eos, "pad_token_id": 0} | settings
        out = plain.generate(ids[name], attention_mask=torch.ones_like(ids[name]), **given)
        return out[0, ids[name].shape[1] :].tolist()

    def draws(name, settings):
        for setting in settings:
            generate(name, do_sample=True, top_k=0, **setting)

    def row(what, name, ours, theirs):
        a, b = in_turn(repetitions, ours, theirs)
        rows.append({"what": what, "prompt": name, "ours, s": f"{a:.1f}"})
        rows[-1] |= {"generate(), s": f"{b:.1f}", "generate() ÷ ours": f"{b / a:.2f}"}
        print(rows[-1], file=sys.stderr)

    def fact(what, value):
        facts.append({"what": what, "figure": value})
        print(facts[-1], file=sys.stderr)

    def tasks(prompt, name):
        """(what, our call, generate()'s calls) of tasks 1 to 4."""
        hot = [{"temperature": t} for t in task3_temperature.TEMPERATURES]
        cut = [{"temperature": t, "top_p": p} for t, p in task4_nucleus.SETTINGS]
        task3 = (prompt, task3_temperature.TEMPERATURES, generator, limit)
        task4 = (prompt, task4_nucleus.SETTINGS, generator, limit)
        return [
            (
                "task 1, greedy",
                lambda: task1_greedy.greedy(prompt, limit),
                lambda: generate(name, do_sample=False),
            ),
            (
                "task 2, 3 texts",
                lambda: task2_sampling.sample(prompt, 3, generator, limit),
                lambda: draws(name, [{}] * 3),
            ),
            (
                "task 3, 5 temperatures",
                lambda: task3_temperature.sample(*task3),
                lambda: draws(name, hot),
            ),
            ("task 4, 4 settings", lambda: task4_nucleus.sample(*task4), lambda: draws(name, cut)),
        ]

    tokenizer.eos_token = None  # no text ends early
    for name, prompt in PROMPTS.items():
        for task in tasks(prompt, name):
            row(task[0], name, *task[1:])

    data, story = torch.ones(500_000_000), PROMPTS["hedgehog"]
    ours, theirs, alone, total = in_turn(
        2 * repetitions,
        lambda: task1_greedy.greedy(story, limit),
        lambda: generate("hedgehog", do_sample=False),
        lambda: [products(layers) for _ in range(20)],
        lambda: [data.sum() for _ in range(10)],
    )
    bound = 10 * data.nbytes / total / read
    data = None  # frees 2 GB
    fact("greedy, tokens/s", f"{limit / ours:.1f}")
    fact("generate(), greedy, tokens/s", f"{limit / theirs:.1f}")
    fact("bound: memory bandwidth ÷ bytes of weights read per token, tokens/s", f"{bound:.1f}")
    fact("greedy ÷ bound", f"{limit / ours / bound:.2f}")
    fact("the packed matrix products alone ÷ bound", f"{20 / alone / bound:.2f}")
    seconds = {k: timed(lambda n=n: task1_greedy.greedy(story, n)) for k, n in limits.items()}
    for tokens, duration in seconds.items():
        fact(f"greedy, seconds for {tokens}", f"{duration:.1f}")
    fact("greedy, seconds for 1000 tokens ÷ for 500", f"{seconds['1000'] / seconds['500']:.2f}")
    slow = timed(lambda: uncached(ids["hedgehog"], plain, UNCACHED))
    fast = timed(lambda: task1_greedy.greedy(story, UNCACHED))
    fact(f"without a cache, seconds for {UNCACHED} tokens (not waited for beyond)", f"{slow:.1f}")
    fact(f"without a cache ÷ ours, {UNCACHED} tokens", f"{slow / fast:.1f}")
    fact(
        "temperature, nucleus, draw, append: share of task 4", f"{share_outside_the_model(60):.1%}"
    )

    tokenizer.eos_token = "<|im_end|>"
    for name, prompt in PROMPTS.items():
        ours, theirs = [], []

        def our_beams(prompt=prompt, texts=ours):
            found = {b: task5_beam_search.search(prompt, b, limit) for b in (1, 4, 8)}
            pairs = task5_beam_search.SETTINGS
            texts[:] = [task5_beam_search.best(found[b], p).tokens for b, p in pairs]

        def their_beams(name=name, texts=theirs):
            texts.clear()
            for beams, penalty in task5_beam_search.SETTINGS:
                given = {"length_penalty": penalty, "early_stopping": True} if beams > 1 else {}
                texts.append(generate(name, eos, do_sample=False, num_beams=beams, **given))

        row("task 5, 5 settings", name, our_beams, their_beams)
        same = sum(a == b for a, b in zip(ours, theirs, strict=True))
        rows[-1]["what"] += f" ({same} of 5 texts the same)"
    for script in ("task1_greedy.py", "task5_beam_search.py"):
        size = peak(script, args.model, limit)
        fact(f"{script}: peak memory, GB", f"{size / 1e9:.2f}")
        fact(f"{script}: peak memory ÷ float32 weights", f"{size / weights:.2f}")
    print(common.table(rows), common.table(facts), sep="\n\n")


if __name__ == "__main__":
    main()
