"""Task 3. Sampling with temperature: divide the logits by T, then draw.

T < 1 sharpens the distribution (T -> 0 is greedy), T > 1 flattens it (T -> infinity is uniform).
The five temperatures are decoded side by side, one row each.
"""

from common import MAX_NEW_TOKENS, PROMPTS, Decoding, Report, column, step

import torch

TEMPERATURES = (0.001, 0.1, 0.5, 1.0, 10.0)


def sample(prompt, temperatures, generator, max_new_tokens=MAX_NEW_TOKENS):
    """One continuation of `prompt` per temperature, a list of `Text` (assignment, task 3).

    p_i = exp(z_i / T) / sum_j exp(z_j / T) for logits z. generator: the `torch.Generator` of the
    draws, on the model's device. ValueError for a temperature that is not positive and finite.
    """
    temperatures = column("temperature", temperatures)  # (rows, 1)
    decoding = Decoding(prompt, len(temperatures), max_new_tokens)
    while decoding.open:
        logits = step(decoding)  # (open rows, vocabulary)
        logits = logits - logits.amax(dim=-1, keepdim=True)  # same softmax, no overflow at tiny T
        probs = (logits / temperatures[decoding.open]).softmax(dim=-1)
        tokens = torch.multinomial(probs, 1, generator=generator)  # (open rows, 1)
        decoding.append(tokens[:, 0])
    return decoding.texts


def main():
    with Report(__doc__, samples=1) as report:
        for name, prompt in PROMPTS.items():
            texts = []
            for batch in report.batches(TEMPERATURES):
                texts += sample(prompt, batch, report.generator, report.args.max_new_tokens)
            report.section(name, [f"temperature={t}" for t in TEMPERATURES], texts)


if __name__ == "__main__":
    main()
