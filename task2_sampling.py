"""Task 2. Sampling: at each step draw the token from the model's whole distribution.

A text ends at the EOS token or at the limit. Another seed draws other texts.
"""

import torch

import common
from common import MAX_NEW_TOKENS, PROMPTS, Context, Text, append_tokens, draw, progress, step

SAMPLES = 3  # texts per prompt


def sample(model, prompt, count, generator, max_new_tokens=MAX_NEW_TOKENS):
    """Return `count` continuations of `prompt`, a list of `Text`.

    Assignment, task 2: a token is drawn from p_i = exp(z_i) / sum_j exp(z_j), z being the logits.
    prompt: a list of token ids. generator: the `torch.Generator` of the draws.
    """
    texts = [Text() for _ in range(count)]
    unfinished = texts
    context = Context(model, prompt)
    for _ in progress(max_new_tokens):
        logits = step(context, unfinished)  # (unfinished, vocabulary)
        probs = logits.softmax(dim=-1)
        tokens = draw(probs, generator)  # (unfinished,)
        append_tokens(unfinished, tokens)
        unfinished = [text for text in unfinished if not text.ended]
        if not unfinished:
            break
    return texts


def main():
    """Load, generate, print, write."""
    args, model, tokenizer, report = common.start(__file__, __doc__, draws=True)
    for name, input_text in PROMPTS.items():
        generator = torch.Generator().manual_seed(args.seed)
        prompt = tokenizer(input_text).input_ids
        texts = sample(model, prompt, SAMPLES, generator, args.max_new_tokens)
        labelled = {f"sampling, text {number}": text for number, text in enumerate(texts, start=1)}
        report.add_texts(name, labelled)
    report.finish()


if __name__ == "__main__":
    main()
