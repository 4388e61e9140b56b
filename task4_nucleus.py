"""Task 4. Nucleus sampling: temperature first, then draw among the most probable tokens only.

The nucleus is the most probable tokens whose cumulative probability does not exceed top_p, and
always the first. (The paper, Holtzman et al. 2020, also keeps the token that crosses top_p.)
"""

import torch

import common
from common import MAX_NEW_TOKENS, PROMPTS, Context, Text, append_tokens, draw, progress, step

SETTINGS = ((1.0, 0.9), (1.0, 0.15), (0.5, 0.9), (0.5, 0.15))  # (temperature, top_p)
RANKED_AT_FIRST = 1000  # a nucleus seldom has more tokens


def nucleus(probs, top_p):
    """Cut each distribution to its nucleus and renormalise it (Holtzman et al. 2020, eq. 3).

    probs: float (rows, vocabulary), each row summing to 1. top_p: a number, or a tensor (rows, 1);
    1 keeps everything. Returns a tensor like `probs`. The other rows may decide which of equal
    tokens at the cut stay: topk and sort order them differently.
    """
    # The comments follow one row: 0.10, 0.50, 0.25, 0.15 with top_p = 0.85.
    ranked, tokens = ranked_by_probability(probs, top_p)  # 0.50 0.25 0.15 0.10, tokens 1 2 3 0
    cumulative = ranked.cumsum(dim=-1).clamp(max=1)  # 0.50 0.75 0.90 1.00 (rounding may pass 1)
    kept = cumulative <= top_p  # yes yes no no: 0.90 exceeds top_p
    kept[:, 0] = True  # the most probable token, even where it alone exceeds top_p
    cut = ranked.where(kept, 0)  # 0.50 0.25 0 0
    renormalised = cut / cut.sum(dim=-1, keepdim=True)  # 0.67 0.33 0 0
    return torch.zeros_like(probs).scatter(-1, tokens, renormalised)  # 0 0.67 0.33 0


def ranked_by_probability(probs, top_p):
    """The tokens from the most probable down, at least as far as the nucleus goes.

    Returns (probabilities, tokens), each (rows, RANKED_AT_FIRST), or (rows, vocabulary) where these
    do not suffice: sorting all takes over ten times as long. The arguments are those of `nucleus`.
    """
    ranked, tokens = probs.topk(min(RANKED_AT_FIRST, probs.shape[-1]))
    cumulative = ranked.cumsum(dim=-1).clamp(max=1)  # the same sums as in `nucleus`
    if (cumulative[:, -1:] <= top_p).any():  # the nucleus may go on beyond these
        ranked, tokens = probs.sort(dim=-1, descending=True)
    return ranked, tokens


def sample(model, prompt, settings, seeds, max_new_tokens=MAX_NEW_TOKENS):
    """Continue `prompt` once per seed and setting, seed by seed; return a list of `Text`.

    See assignment, task 4. prompt: a list of token ids. settings: pairs (temperature, top_p),
    the temperature above 0, top_p from 0 to 1, else ValueError.
    """
    if not all(temperature > 0 and 0 <= top_p <= 1 for temperature, top_p in settings):
        raise ValueError(f"a temperature must be above 0, top_p from 0 to 1: {settings}")
    texts = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)  # all texts of the seed share it
        texts += [Text(setting=setting, generator=generator) for setting in settings]
    unfinished = texts
    context = Context(model, prompt)
    for _ in progress(max_new_tokens):
        logits = step(context, unfinished)  # (unfinished, vocabulary)
        pairs = torch.tensor([text.setting for text in unfinished], device=logits.device)
        temperature = pairs[:, :1]  # (unfinished, 1)
        top_p = pairs[:, 1:]  # (unfinished, 1)
        probs = (logits / temperature).softmax(dim=-1)
        probs = nucleus(probs, top_p)
        tokens = draw(probs, unfinished)  # (unfinished,)
        append_tokens(unfinished, tokens)
        unfinished = [text for text in unfinished if not text.ended]
        if not unfinished:
            break
    return texts


def label(temperature, top_p):
    """What a setting is called in the report: as the assignment writes it."""
    return f"temperature={temperature:g}, top_p={top_p:g}"


def main():
    """Load, generate, print, write."""
    args, model, tokenizer, report = common.start(__file__, __doc__, draws=True)
    for name, input_text in PROMPTS.items():
        prompt = tokenizer(input_text).input_ids
        texts = sample(model, prompt, SETTINGS, [args.seed], args.max_new_tokens)
        report.add_texts(name, {label(*text.setting): text for text in texts})
    report.finish()


if __name__ == "__main__":
    main()
