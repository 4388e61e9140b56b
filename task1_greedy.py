"""Task 1. Greedy decoding: at each step take the most probable token.

A text ends at the EOS token or at the limit. Nothing is drawn, so every run gives the same texts.
"""

import common
from common import MAX_NEW_TOKENS, PROMPTS, Text, TextBatch, step


def greedy(model, prompt, max_new_tokens=MAX_NEW_TOKENS):
    """The greedy continuation of `prompt`, a list of token ids: a `Text` (assignment, task 1)."""
    text = Text()
    batch = TextBatch(model, prompt, [text], max_new_tokens)
    while batch.unfinished:
        logits = step(batch)  # (1, vocabulary)
        batch.append(logits.argmax(dim=-1))
    return text


def main(args):
    """Load, generate, print, write."""
    model, tokenizer = common.load(args.model)
    report = common.Report(args, model.device)
    for name, prompt in PROMPTS.items():
        text = greedy(model, tokenizer(prompt).input_ids, args.max_new_tokens)
        report.add(common.section(name, {"greedy": [text]}, tokenizer))
    report.write()


if __name__ == "__main__":
    common.run(main, __doc__)
