"""Task 3. Sampling with temperature: divide the logits by T, then draw.

T < 1 sharpens the distribution (towards greedy as T -> 0), T > 1 flattens it (towards uniform).
The temperatures are decoded side by side, one row each.
"""

import math

import torch

import common
from common import MAX_NEW_TOKENS, PROMPTS, Batch, Text, TextBatch, draw, step, temperature_column

TEMPERATURES = (0.001, 0.1, 0.5, 1.0, 10.0)


def sample(model, prompt, temperatures, generator, max_new_tokens=MAX_NEW_TOKENS):
    """A continuation of `prompt`, a list of token ids, per temperature: a list of `Text`.

    p_i = exp(z_i / T) / sum_j exp(z_j / T) for logits z (assignment, task 3).
    generator: the `torch.Generator` of the draws. ValueError unless each T is positive and finite.
    """
    temperatures = temperature_column(temperatures, model.device)  # (rows, 1)
    texts = [Text() for _ in temperatures]
    batch = TextBatch(model, prompt, texts, max_new_tokens)
    while batch.unfinished:
        logits = step(batch)  # (unfinished texts, vocabulary)
        probs = (logits / temperatures[batch.unfinished]).softmax(dim=-1)
        batch.append(draw(probs, generator))
    return texts


def first_token(model, tokenizer, prompt):
    """What T does to one distribution: the likeliest first tokens and the entropy, in a table."""
    logits = step(Batch(model, prompt))[0].cpu().double()  # (vocabulary,)
    likeliest = logits.topk(5).indices.tolist()
    rows = []
    for temperature in TEMPERATURES:
        probs = (logits / temperature).softmax(dim=-1)
        row = {"temperature": temperature}
        for token in likeliest:
            row[common.code(tokenizer.decode(token))] = f"{probs[token]:.6f}"
        entropy = torch.special.entr(probs).sum() / math.log(2)
        row["entropy, bits"] = f"{entropy:.2f}"
        rows.append(row)
    return f"### The first token of the story, by temperature\n\n{common.table(rows)}"


def main(args):
    """Load, generate, print, write."""
    model, tokenizer = common.load(args.model)
    report = common.Report(args, model.device)
    report.add(first_token(model, tokenizer, tokenizer(PROMPTS["hedgehog"]).input_ids))
    generator = torch.Generator().manual_seed(args.seed)
    labels = [f"temperature={temperature}" for temperature in TEMPERATURES]
    for name, prompt in PROMPTS.items():
        prompt_ids = tokenizer(prompt).input_ids
        texts = []
        for rows in common.batches(TEMPERATURES, args.samples):
            texts += sample(model, prompt_ids, rows, generator, args.max_new_tokens)
        groups = common.grouped(labels, texts)
        report.add(common.section(name, groups, tokenizer))
    report.write()


if __name__ == "__main__":
    common.run(main, __doc__, default_samples=1)
