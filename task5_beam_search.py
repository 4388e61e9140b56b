"""Task 5. Early-stopped beam search: carry on the num_beams most probable unfinished texts.

The search stops when num_beams candidates have finished; at the limit all the others finish too.
length_penalty enters only the last ranking, so one search serves all its values.
"""

import math

from common import MAX_NEW_TOKENS, PROMPTS, Decoding, Report, step

import torch

SETTINGS = ((1, 1.0), (4, 1.0), (4, 0.5), (4, 2.0), (8, 1.0))  # (num_beams, length_penalty)


def search(prompt, num_beams, max_new_tokens=MAX_NEW_TOKENS):
    """The finished candidates, a list of `Text` with its `score` (assignment, task 5, steps 2 to 8).

    ValueError for num_beams below 1 or above the size of the vocabulary.
    """
    decoding = Decoding(prompt, max_new_tokens=max_new_tokens)
    if not 1 <= num_beams <= decoding.model.config.vocab_size:
        raise ValueError(f"num_beams must be from 1 to the vocabulary's size, not {num_beams}")
    scores = torch.zeros(1, device=decoding.pending.device)  # of the unfinished candidates
    finished = []
    while decoding.open and len(finished) < num_beams:
        logprobs = step(decoding).log_softmax(dim=-1)  # (candidates, vocabulary)
        best, tokens = logprobs.topk(num_beams)  # (candidates, num_beams)
        totals, tokens = (scores[:, None] + best).flatten(), tokens.flatten()
        ranking = totals.argsort(descending=True, stable=True).tolist()
        eos = (tokens == decoding.eos).tolist()
        ending = [i for i in ranking[:num_beams] if eos[i]]
        going = [i for i in ranking if not eos[i]][:num_beams]
        chosen = torch.tensor(ending + going, device=tokens.device)
        decoding.reorder(chosen // num_beams)  # continuation i belongs to candidate i // num_beams
        decoding.append(tokens[chosen])  # those at EOS leave
        scores = totals[going]
        finished = [text for text in decoding.texts if text.ending]
    return finished


def best(candidates, length_penalty):
    """The candidate with the highest score / length ** length_penalty (assignment, task 5).

    score: sum of log-probabilities; length: generated tokens, EOS included.
    ValueError for a length_penalty that is not finite.
    """
    if not math.isfinite(length_penalty):
        raise ValueError(f"length_penalty must be a finite number, not {length_penalty}")
    return max(candidates, key=lambda text: text.score / len(text.tokens) ** length_penalty)


def main():
    with Report(__doc__) as report:
        labels = [f"num_beams={beams}, length_penalty={penalty}" for beams, penalty in SETTINGS]
        for name, prompt in PROMPTS.items():
            finished = {
                num_beams: search(prompt, num_beams, report.args.max_new_tokens)
                for num_beams in dict.fromkeys(num_beams for num_beams, _ in SETTINGS)
            }
            texts = [best(finished[beams], penalty) for beams, penalty in SETTINGS]
            report.section(name, labels, texts)


if __name__ == "__main__":
    main()
