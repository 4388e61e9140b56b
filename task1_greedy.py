"""Task 1. Greedy decoding: at each step take the most probable token.

A text ends at the EOS token or at the limit. Nothing is drawn, so every run gives the same texts.
"""

from common import MAX_NEW_TOKENS, PROMPTS, Decoding, report, section, step


def greedy(prompt, max_new_tokens=MAX_NEW_TOKENS):
    """The greedy continuation of `prompt`, a `Text` (assignment, task 1)."""
    decoding = Decoding(prompt, max_new_tokens=max_new_tokens)
    while decoding.open:
        logits = step(decoding)  # (1, vocabulary)
        decoding.append(logits.argmax(dim=-1))
    return decoding.texts[0]


def main(args):
    for name, prompt in PROMPTS.items():
        yield section(name, {"greedy": [greedy(prompt, args.max_new_tokens)]})


if __name__ == "__main__":
    report(main, __doc__)
