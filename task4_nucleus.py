"""Task 4. Nucleus sampling: temperature first, then draw among the most probable tokens only.

Kept are the most probable tokens whose cumulative probability does not exceed top_p, and the first
one in any case. The paper (Holtzman et al. 2020) also keeps the token that crosses top_p.
"""

import common
from common import MAX_NEW_TOKENS, PROMPTS, Decoding, column, draw, step

import torch

SETTINGS = ((1.0, 0.9), (1.0, 0.15), (0.5, 0.9), (0.5, 0.15))  # (temperature, top_p)


def nucleus(probs, top_p):
    """Cut each distribution to its nucleus and renormalise it (Holtzman et al. 2020, eq. 3).

    probs: float (rows, vocabulary), each row summing to 1; top_p: a number in (0, 1] or one per
    row. Returns a tensor like `probs`. top_p = 1 keeps all. ValueError for another top_p.
    """
    top_p = column("top_p", top_p, highest=1, dtype=probs.dtype).to(probs.device)
    count, size = min(64, probs.shape[-1]), probs.shape[-1]
    while True:  # the nucleus is small: sort only as far as it reaches
        values, tokens = probs.topk(count)  # (rows, count), most probable first
        cumulative = values.cumsum(dim=-1)
        if count == size or ((cumulative[:, -1:] > top_p) & (top_p < 1)).all():
            break
        count = min(16 * count, size)
    keep = (cumulative <= top_p) | (top_p == 1)
    keep[:, 0] = True
    values = values * keep
    values = values / values.sum(dim=-1, keepdim=True)
    return torch.zeros_like(probs).scatter(-1, tokens, values)


def sample(prompt, settings, generator, max_new_tokens=MAX_NEW_TOKENS):
    """One continuation of `prompt` per (temperature, top_p), a list of `Text` (assignment, task 4).

    generator: the `torch.Generator` of the draws.
    ValueError for a temperature that is not positive and finite, or a top_p outside (0, 1].
    """
    temperatures = column("temperature", [t for t, _ in settings])  # (rows, 1)
    top_p = column("top_p", [p for _, p in settings], highest=1)  # (rows, 1)
    decoding = Decoding(prompt, len(settings), max_new_tokens)
    while decoding.open:
        logits = step(decoding)  # (open rows, vocabulary)
        logits = logits - logits.amax(dim=-1, keepdim=True)  # same softmax, no overflow at tiny T
        probs = (logits / temperatures[decoding.open]).softmax(dim=-1)
        probs = nucleus(probs, top_p[decoding.open])
        decoding.append(draw(probs, generator), kept=(probs > 0).sum(dim=-1))
    return decoding.texts


def two_rules(prompt):
    """The first token's distribution, and what each rule keeps of it, as a table."""
    decoding = Decoding(prompt)
    probs = step(decoding).softmax(dim=-1)
    best, tokens = probs[0].topk(8)
    cumulative = best.cumsum(dim=-1)
    rows = []
    for i, token in enumerate(tokens.tolist()):
        row = {"token": common.code(decoding.tokenizer.decode(token))}
        row |= {"probability": f"{best[i]:.4f}", "cumulative": f"{cumulative[i]:.4f}"}
        for top_p in dict.fromkeys(top_p for _, top_p in SETTINGS):
            ours, paper = nucleus(probs, top_p)[0, token] > 0, cumulative[i] - best[i] < top_p
            row[f"top_p={top_p}"] = "kept" if ours else "by the paper only" if paper else "cut"
        rows.append(row)
    return f"### The first token of the JSON, temperature=1\n\n{common.table(rows)}"


def main(args):
    yield two_rules(PROMPTS["json"])
    settings = {f"temperature={t:g}, top_p={p:g}": (t, p) for t, p in SETTINGS}
    for name, prompt in PROMPTS.items():
        yield common.section(name, common.drawn(args, sample, prompt, settings))


if __name__ == "__main__":
    common.report(main, __doc__, samples=1)
