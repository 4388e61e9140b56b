"""Task 3. Sampling with temperature: divide the logits by T, then draw.

T < 1 sharpens the distribution (T -> 0 is greedy), T > 1 flattens it (T -> infinity is uniform).
The five temperatures are decoded side by side, one row each.
"""

import common
from common import MAX_NEW_TOKENS, PROMPTS, Decoding, column, draw, step

import torch

TEMPERATURES = (0.001, 0.1, 0.5, 1.0, 10.0)


def sample(prompt, temperatures, generator, max_new_tokens=MAX_NEW_TOKENS):
    """One continuation of `prompt` per temperature, a list of `Text` (assignment, task 3).

    p_i = exp(z_i / T) / sum_j exp(z_j / T) for logits z. generator: the `torch.Generator` of the
    draws. ValueError for a temperature that is not positive and finite.
    """
    temperatures = column("temperature", temperatures)  # (rows, 1)
    decoding = Decoding(prompt, len(temperatures), max_new_tokens)
    while decoding.open:
        logits = step(decoding)  # (open rows, vocabulary)
        logits = logits - logits.amax(dim=-1, keepdim=True)  # same softmax, no overflow at tiny T
        probs = (logits / temperatures[decoding.open]).softmax(dim=-1)
        decoding.append(draw(probs, generator))
    return decoding.texts


def first_token(prompt):
    """What T does to one distribution: the likeliest first tokens and the entropy, as a table."""
    decoding = Decoding(prompt)
    logits = step(decoding)[0].cpu().double()  # (vocabulary,)
    best = logits.topk(5).indices.tolist()
    rows = []
    for temperature in TEMPERATURES:
        probs = (logits / temperature).softmax(dim=-1)
        row = {common.code(decoding.tokenizer.decode(i)): f"{probs[i]:.6f}" for i in best}
        bits = torch.special.entr(probs).sum() / torch.tensor(2.0).log()
        rows.append({"temperature": temperature, **row, "entropy, bits": f"{bits:.2f}"})
    return f"### The first token of the story, by temperature\n\n{common.table(rows)}"


def main(args):
    yield first_token(PROMPTS["hedgehog"])
    settings = {f"temperature={temperature}": temperature for temperature in TEMPERATURES}
    for name, prompt in PROMPTS.items():
        yield common.section(name, common.drawn(args, sample, prompt, settings))


if __name__ == "__main__":
    common.report(main, __doc__, samples=1)
