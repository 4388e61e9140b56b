"""Task 4. Nucleus sampling: temperature first, then draw among the most probable tokens only.

Kept are the most probable tokens whose cumulative probability does not exceed top_p, and the first
one in any case. (The paper, Holtzman et al. 2020, also keeps the token that crosses top_p.)
"""

from dataclasses import dataclass, field

import torch

import common
from common import MAX_NEW_TOKENS, PROMPTS, Text, TextBatch, draw, step, temperature_column

SETTINGS = ((1.0, 0.9), (1.0, 0.15), (0.5, 0.9), (0.5, 0.15))  # (temperature, top_p)
TOP_PS = sorted({top_p for _, top_p in SETTINGS}, reverse=True)


@dataclass
class NucleusText(Text):
    """A text, and how many tokens the nucleus held at each of its steps."""

    nucleus_sizes: list = field(default_factory=list)


def nucleus(probs, top_p):
    """Cut each distribution to its nucleus and renormalise it (Holtzman et al. 2020, eq. 3).

    probs: float (rows, vocabulary), each row summing to 1. top_p: a number, or one per row, above 0
    and at most 1; 1 keeps everything. ValueError for another. Returns a tensor like `probs`.

    With top_p = 0.85:  probs       0.10  0.50  0.25  0.15
                        ranked      0.50  0.25  0.15  0.10
                        cumulative  0.50  0.75  0.90  1.00
                        kept        0.50  0.25                  (0.90 exceeds top_p)
                        returned    0     0.67  0.33  0         (divided by 0.75, the sum)
    """
    top_p = torch.as_tensor(top_p, dtype=probs.dtype, device=probs.device).reshape(-1, 1)
    if not ((top_p > 0) & (top_p <= 1)).all():
        raise ValueError(f"top_p must be above 0 and at most 1: {top_p.flatten().tolist()}")
    top_p = top_p.masked_fill(top_p == 1, torch.inf)  # 1 keeps all, though a sum may round past 1
    # A full sort takes over ten times as long. A nucleus of more than 1000 tokens is rare.
    ranked, tokens = probs.topk(min(1000, probs.shape[-1]))
    if (ranked.sum(dim=-1, keepdim=True) <= top_p).any():
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
    temperatures = temperature_column([t for t, _ in settings], model.device)  # (rows, 1)
    top_p = torch.tensor([p for _, p in settings], device=model.device)  # (rows,)
    texts = [NucleusText() for _ in settings]
    batch = TextBatch(model, prompt, texts, max_new_tokens)
    while batch.unfinished:
        logits = step(batch)  # (unfinished texts, vocabulary)
        probs = (logits / temperatures[batch.unfinished]).softmax(dim=-1)
        probs = nucleus(probs, top_p[batch.unfinished])
        sizes = (probs > 0).sum(dim=-1).tolist()
        for index, size in zip(batch.unfinished, sizes, strict=True):
            texts[index].nucleus_sizes.append(size)
        batch.append(draw(probs, generator))
    return texts


def rule_counts(probs, top_p):
    """How many tokens of probs, (1, vocabulary), the assignment's rule keeps, and the paper's."""
    ours = int((nucleus(probs, top_p) > 0).sum())
    cumulative = probs[0].sort(descending=True).values.cumsum(dim=-1)
    papers = int((cumulative < top_p).sum()) + 1  # the fewest that reach top_p (eq. 2)
    return ours, papers


def rules_table(probs, counts, tokenizer):
    """The tokens that a rule keeps of probs, (1, vocabulary), and the next one; at most 20."""
    shown = min(20, probs.shape[-1], 1 + max(papers for _, papers in counts))
    ranked, tokens = probs[0].topk(shown)
    cumulative = ranked.cumsum(dim=-1)
    rows = []
    for rank in range(shown):
        row = {"token": common.code(tokenizer.decode(tokens[rank]))}
        row["probability"] = f"{ranked[rank]:.4f}"
        row["cumulative"] = f"{cumulative[rank]:.4f}"
        for top_p, (ours, papers) in zip(TOP_PS, counts, strict=True):
            if rank < ours:
                row[f"top_p={top_p}"] = "kept"
            elif rank < papers:
                row[f"top_p={top_p}"] = "by the paper only"
            else:
                row[f"top_p={top_p}"] = "cut"
        rows.append(row)
    return common.table(rows)


def two_rules(model, tokenizer, prompt, max_new_tokens):
    """The first step of the greedy text at which the paper's rule keeps more tokens, as a table."""
    title = "### Where the two rules first differ, along the greedy JSON at temperature=1"
    text = Text()
    batch = TextBatch(model, prompt, [text], max_new_tokens)
    while batch.unfinished:
        probs = step(batch).softmax(dim=-1)  # (1, vocabulary)
        counts = [rule_counts(probs, top_p) for top_p in TOP_PS]
        if any(ours != papers for ours, papers in counts):
            so_far = common.code(tokenizer.decode(text.tokens))
            where = f"Token {len(text.tokens) + 1}, after {so_far}:" if text.tokens else "Token 1:"
            return f"{title}\n\n{where}\n\n{rules_table(probs, counts, tokenizer)}"
        batch.append(probs.argmax(dim=-1))
    return f"{title}\n\nThey keep the same tokens at every step."


def size_figures(texts):
    """Further columns of the table: how many tokens the nucleus held."""
    sizes = sorted(size for text in texts for size in text.nucleus_sizes)
    return {"kept, median": sizes[len(sizes) // 2], "kept, largest": sizes[-1]}


def main(args):
    """Load, generate, print, write."""
    model, tokenizer = common.load(args.model)
    report = common.Report(args, model.device)
    json_ids = tokenizer(PROMPTS["json"]).input_ids
    report.add(two_rules(model, tokenizer, json_ids, args.max_new_tokens))
    generator = torch.Generator().manual_seed(args.seed)
    labels = [f"temperature={t:g}, top_p={p:g}" for t, p in SETTINGS]
    for name, prompt in PROMPTS.items():
        prompt_ids = tokenizer(prompt).input_ids
        texts = []
        for rows in common.batches(SETTINGS, args.samples):
            texts += sample(model, prompt_ids, rows, generator, args.max_new_tokens)
        groups = common.grouped(labels, texts)
        columns = {label: size_figures(group) for label, group in groups.items()}
        report.add(common.section(name, groups, tokenizer, columns=columns))
    report.write()


if __name__ == "__main__":
    common.run(main, __doc__, default_samples=1)
