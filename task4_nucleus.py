"""Task 4. Nucleus sampling: temperature first, then draw among the most probable tokens only.

Kept are the most probable tokens whose cumulative probability does not exceed top_p, and the first
one in any case. (The paper, Holtzman et al. 2020, also keeps the token that crosses top_p.)
"""

from dataclasses import dataclass, field

import torch

import common
from common import MAX_NEW_TOKENS, PROMPTS, Text, TextBatch, draw, step

SETTINGS = ((1.0, 0.9), (1.0, 0.15), (0.5, 0.9), (0.5, 0.15))  # (temperature, top_p)


@dataclass
class NucleusText(Text):
    """A text, and how many tokens the nucleus held at each of its steps."""

    nucleus_sizes: list = field(default_factory=list)


def nucleus(probs, top_p):
    """Cut each distribution to its nucleus and renormalise it (Holtzman et al. 2020, eq. 3).

    probs: float (rows, vocabulary), each row summing to 1. top_p: a number or one per row, above 0
    and at most 1, which keeps everything; ValueError if not. Returns a tensor like `probs`.

    With top_p = 0.85:  probs       0.10  0.50  0.25  0.15
                        ranked      0.50  0.25  0.15  0.10
                        cumulative  0.50  0.75  0.90  1.00
                        kept        0.50  0.25                  (0.90 exceeds top_p)
                        returned    0     0.67  0.33  0         (divided by 0.75, the sum)
    """
    top_p = torch.as_tensor(top_p, dtype=probs.dtype, device=probs.device).reshape(-1, 1)
    if not ((top_p > 0) & (top_p <= 1)).all():
        raise ValueError(f"top_p must be above 0 and at most 1: {top_p.flatten().tolist()}")
    top_p = top_p.masked_fill(top_p == 1, torch.inf)  # rounding may carry a sum past 1
    ranked, tokens = probs.topk(min(1000, probs.shape[-1]))  # a full sort takes ten times as long
    if (ranked.sum(dim=-1, keepdim=True) <= top_p).any():  # but a nucleus may reach further
        ranked, tokens = probs.sort(dim=-1, descending=True)
    kept = ranked.cumsum(dim=-1) <= top_p
    kept[:, 0] = True
    ranked = ranked.where(kept, 0)
    ranked = ranked / ranked.sum(dim=-1, keepdim=True)
    return torch.zeros_like(probs).scatter(-1, tokens, ranked)


def sample(model, prompt, settings, generator, max_new_tokens=MAX_NEW_TOKENS):
    """A continuation of `prompt`, a list of token ids, per setting: a list of `NucleusText`.

    settings: (temperature, top_p) for each (assignment, task 4).
    generator: the `torch.Generator` of the draws. ValueError unless each temperature is positive
    and finite, and each top_p above 0 and at most 1.
    """
    settings = torch.tensor(settings, dtype=torch.float32, device=model.device).reshape(-1, 2)
    temperatures, top_p = settings.unbind(dim=1)
    if not ((temperatures > 0) & temperatures.isfinite()).all():
        raise ValueError(f"a temperature must be positive and finite: {temperatures.tolist()}")
    texts = [NucleusText() for _ in settings]
    batch = TextBatch(model, prompt, texts, max_new_tokens)
    while batch.unfinished:
        logits = step(batch)  # (unfinished texts, vocabulary)
        probs = (logits / temperatures[batch.unfinished, None]).softmax(dim=-1)
        probs = nucleus(probs, top_p[batch.unfinished])
        sizes = (probs > 0).sum(dim=-1).tolist()
        for index, size in zip(batch.unfinished, sizes, strict=True):
            texts[index].nucleus_sizes.append(size)
        batch.append(draw(probs, generator))
    return texts


def two_rules(model, tokenizer, prompt, max_new_tokens):
    """A table of the first step of the greedy text at which the paper's rule keeps more tokens."""
    top_ps = sorted({top_p for _, top_p in SETTINGS}, reverse=True)
    text = Text()
    batch = TextBatch(model, prompt, [text], max_new_tokens)
    while batch.unfinished:
        probs = step(batch).softmax(dim=-1)  # (1, vocabulary)
        ranked, tokens = probs[0].sort(descending=True)
        cumulative = ranked.cumsum(dim=-1)
        ours = [int((nucleus(probs, top_p) > 0).sum()) for top_p in top_ps]
        # The paper keeps the fewest tokens that reach top_p (eq. 2).
        papers = [int((cumulative < top_p).sum()) + 1 for top_p in top_ps]
        if ours != papers:
            break
        batch.append(tokens[:1])
    else:
        return "At no step of the greedy JSON does the paper's rule keep more tokens."
    rows = []
    for rank in range(max(papers) + 1):
        row = {"token": common.code(tokenizer.decode(tokens[rank]))}
        row["probability"] = f"{ranked[rank]:.4f}"
        row["cumulative"] = f"{cumulative[rank]:.4f}"
        for top_p, our_count, papers_count in zip(top_ps, ours, papers, strict=True):
            if rank < our_count:
                row[f"top_p={top_p}"] = "kept"
            elif rank < papers_count:
                row[f"top_p={top_p}"] = "by the paper only"
            else:
                row[f"top_p={top_p}"] = "cut"
        rows.append(row)
    title = f"### The rules differ: token {len(text.tokens) + 1} of the greedy JSON, temperature=1"
    so_far = common.code(tokenizer.decode(text.tokens))
    return f"{title}\n\nThe text so far: {so_far}\n\n{common.table(rows)}"


def main(args):
    """Load, generate, print, write."""
    model, tokenizer = common.load(args.model)
    report = common.Report(args, model.device)
    prompt_ids = tokenizer(PROMPTS["json"]).input_ids
    report.add(two_rules(model, tokenizer, prompt_ids, args.max_new_tokens))
    generator = torch.Generator().manual_seed(args.seed)
    for name, prompt in PROMPTS.items():
        prompt_ids = tokenizer(prompt).input_ids
        groups = {f"temperature={t:g}, top_p={p:g}": [] for t, p in SETTINGS}
        for rows in common.batches(SETTINGS, args.samples):
            texts = sample(model, prompt_ids, rows, generator, args.max_new_tokens)
            for (t, p), text in zip(rows, texts, strict=True):
                groups[f"temperature={t:g}, top_p={p:g}"].append(text)
        columns = {}
        for label, texts in groups.items():
            sizes = sorted(size for text in texts for size in text.nucleus_sizes)
            columns[label] = {"kept, median": sizes[len(sizes) // 2], "kept, largest": sizes[-1]}
        report.add(common.section(name, groups, tokenizer, columns=columns))
    report.write()


if __name__ == "__main__":
    common.run(main, __doc__, samples=1)
