"""Task 2. Sampling: at each step draw the token from the model's whole distribution.

A text ends at the EOS token or at the limit. Another seed draws other texts.
"""

from common import BATCH, MAX_NEW_TOKENS, PROMPTS, Decoding, draw, report, section, step

COUNT = 3  # texts per prompt


def sample(prompt, count, generator, max_new_tokens=MAX_NEW_TOKENS):
    """`count` sampled continuations of `prompt`, a list of `Text` (assignment, task 2).

    generator: the `torch.Generator` of the draws.
    """
    decoding = Decoding(prompt, count, max_new_tokens)
    while decoding.open:
        logits = step(decoding)  # (open rows, vocabulary)
        probs = logits.softmax(dim=-1)
        decoding.append(draw(probs, generator))
    return decoding.texts


def main(args):
    for name, prompt in PROMPTS.items():
        texts = []
        while rest := args.samples - len(texts):
            texts += sample(prompt, min(rest, BATCH), args.generator, args.max_new_tokens)
        yield section(name, {"sampling": texts}, COUNT)


if __name__ == "__main__":
    report(main, __doc__, samples=COUNT)
