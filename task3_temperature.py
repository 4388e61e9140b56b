"""Task 3. Sampling with temperature: divide the logits by T, then draw.

T < 1 sharpens the distribution (towards greedy as T -> 0), T > 1 flattens it (towards uniform).
The temperatures are decoded side by side with the same random numbers: T is the weight of chance.
The text of 1.0 is the one that task 2 draws with the same seed, up to rounding.
"""

import torch

import common
from common import MAX_NEW_TOKENS, PROMPTS, Context, Text, append_tokens, draw, progress, step

TEMPERATURES = (0.001, 0.1, 0.5, 1.0, 10.0)


def sample(model, prompt, temperatures, seeds, max_new_tokens=MAX_NEW_TOKENS):
    """Continue `prompt` once per seed and temperature, seed by seed; return a list of `Text`.

    Assignment, task 3: a token is drawn from p_i = exp(z_i / T) / sum_j exp(z_j / T), z being the
    logits: it is the argmax of z_i + T * g_i, where g_i = -ln E_i (see `draw`).
    prompt: a list of token ids. temperatures: above 0, else ValueError.
    """
    if not all(temperature > 0 for temperature in temperatures):
        raise ValueError(f"a temperature must be above 0: {temperatures}")
    texts = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)  # all texts of the seed share it
        texts += [Text(setting=temperature, generator=generator) for temperature in temperatures]
    unfinished = texts
    context = Context(model, prompt)
    for _ in progress(max_new_tokens):
        logits = step(context, unfinished)  # (unfinished, vocabulary)
        settings = [text.setting for text in unfinished]
        temperature = torch.tensor(settings, device=logits.device).unsqueeze(1)  # (unfinished, 1)
        probs = (logits / temperature).softmax(dim=-1)
        tokens = draw(probs, unfinished)  # (unfinished,)
        append_tokens(unfinished, tokens)
        unfinished = [text for text in unfinished if not text.ended]
        if not unfinished:
            break
    return texts


def main():
    """Load, generate, print, write."""
    args, model, tokenizer, report = common.start(__file__, __doc__, draws=True)
    for name, input_text in PROMPTS.items():
        prompt = tokenizer(input_text).input_ids
        texts = sample(model, prompt, TEMPERATURES, [args.seed], args.max_new_tokens)
        report.add_texts(name, {f"temperature={text.setting}": text for text in texts})
    report.finish()


if __name__ == "__main__":
    main()
