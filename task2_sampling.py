"""Task 2. Sampling: at each step draw the token from the model's whole distribution.

A text ends at the EOS token or at the limit. The three texts of a prompt have the seeds --seed,
--seed + 1 and --seed + 2.
"""

import torch

import common
from common import MAX_NEW_TOKENS, PROMPTS, Context, Text, append_tokens, draw, progress, step

SAMPLES = 3  # texts per prompt


def sample(model, prompt, seeds, max_new_tokens=MAX_NEW_TOKENS):
    """Continue `prompt` once per seed; return a list of `Text`.

    Assignment, task 2: a token is drawn from p_i = exp(z_i) / sum_j exp(z_j), z being the logits.
    prompt: a list of token ids.
    """
    texts = [Text(setting=seed, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    unfinished = texts
    context = Context(model, prompt)
    for _ in progress(max_new_tokens):
        logits = step(context, unfinished)  # (unfinished, vocabulary)
        probs = logits.softmax(dim=-1)
        tokens = draw(probs, unfinished)  # (unfinished,)
        append_tokens(unfinished, tokens)
        unfinished = [text for text in unfinished if not text.ended]
        if not unfinished:
            break
    return texts


def main():
    """Load, generate, print, write."""
    args, model, tokenizer, report = common.start(__file__, __doc__, draws=True)
    seeds = range(args.seed, args.seed + SAMPLES)
    for name, input_text in PROMPTS.items():
        prompt = tokenizer(input_text).input_ids
        texts = sample(model, prompt, seeds, args.max_new_tokens)
        report.add_texts(name, {f"sampling, seed {text.setting}": text for text in texts})
    report.finish()


if __name__ == "__main__":
    main()
