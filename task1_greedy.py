"""Task 1. Greedy decoding: at each step take the most probable token.

A text ends at the EOS token or at the limit. Nothing is drawn, so a rerun gives the same texts.
"""

import common
from common import MAX_NEW_TOKENS, PROMPTS, Context, Text, append_tokens, progress, step


def greedy(model, prompt, max_new_tokens=MAX_NEW_TOKENS):
    """Return the greedy continuation of `prompt` as a `Text` (assignment, task 1).

    prompt: a list of token ids.
    """
    text = Text()
    context = Context(model, prompt)
    for _ in progress(max_new_tokens):
        logits = step(context, [text])  # (1, vocabulary)
        token = logits.argmax(dim=-1)  # (1,)
        append_tokens([text], token)
        if text.ended:
            break
    return text


def main():
    """Load, generate, print, write."""
    args, model, tokenizer, report = common.start(__file__, __doc__)
    for name, input_text in PROMPTS.items():
        prompt = tokenizer(input_text).input_ids
        text = greedy(model, prompt, args.max_new_tokens)
        report.add_texts(name, {"greedy": text})
    report.finish()


if __name__ == "__main__":
    main()
