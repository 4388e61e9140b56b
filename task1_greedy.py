"""Task 1. Greedy decoding: at each step take the most probable token.

A text ends at the EOS token or at the limit. Nothing is drawn, so every run gives the same texts.
"""

import common
from common import MAX_NEW_TOKENS, PROMPTS, Context, Text, append_tokens, progress, step


def greedy(model, prompt, max_new_tokens=MAX_NEW_TOKENS):
    """The greedy continuation of `prompt`, a list of token ids: a `Text` (assignment, task 1)."""
    text = Text()
    context = Context(model, prompt)
    for _ in progress(max_new_tokens):
        logits = step(context, [text])  # (1, vocabulary)
        token = logits.argmax(dim=-1)  # (1,)
        append_tokens([text], token, logits)
        if text.ended:
            break
    return text


def main():
    """Load, generate, print, write."""
    args, model, tokenizer, report = common.start(__doc__)
    for name, prompt in PROMPTS.items():
        text = greedy(model, tokenizer(prompt).input_ids, args.max_new_tokens)
        report.add(common.section(name, {"greedy": [text]}, tokenizer))
    report.write()


if __name__ == "__main__":
    main()
