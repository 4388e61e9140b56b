"""Task 2. Sampling: at each step draw the token from the model's whole distribution.

A text ends at the EOS token or at the limit. Another seed draws other texts.
"""

import torch

import common
from common import MAX_NEW_TOKENS, PROMPTS, Text, TextBatch, draw, step

SAMPLES = 3  # texts per prompt


def sample(model, prompt, count, generator, max_new_tokens=MAX_NEW_TOKENS):
    """`count` continuations of `prompt`, a list of token ids: a list of `Text` (assignment, task 2).

    p_i = exp(z_i) / sum_j exp(z_j) for logits z. generator: the `torch.Generator` of the draws.
    """
    texts = [Text() for _ in range(count)]
    batch = TextBatch(model, prompt, texts, max_new_tokens)
    while batch.unfinished:
        logits = step(batch)  # (unfinished texts, vocabulary)
        probs = logits.softmax(dim=-1)
        batch.append(draw(probs, generator))
    return texts


def main(args):
    """Load, generate, print, write."""
    model, tokenizer = common.load(args.model)
    report = common.Report(args, model.device)
    generator = torch.Generator().manual_seed(args.seed)
    for name, prompt in PROMPTS.items():
        prompt_ids = tokenizer(prompt).input_ids
        texts = []
        for rows in common.batches(["sampling"], args.samples):  # one entry per text
            texts += sample(model, prompt_ids, len(rows), generator, args.max_new_tokens)
        groups = {"sampling": texts}
        report.add(common.section(name, groups, tokenizer, shown=SAMPLES))
    report.write()


if __name__ == "__main__":
    common.run(main, __doc__, default_samples=SAMPLES)
