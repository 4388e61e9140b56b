"""Task 5. Early-stopped beam search: carry on the num_beams most probable unfinished texts.

The search stops when num_beams candidates have finished; at the limit all the others finish too.
length_penalty enters only the last ranking, so one search serves all its values.
"""

import math
from typing import NamedTuple

import common
from common import MAX_NEW_TOKENS, PROMPTS, Batch, Text, step

SETTINGS = ((1, 1.0), (4, 1.0), (4, 0.5), (4, 2.0), (8, 1.0))  # (num_beams, length_penalty)


class Continuation(NamedTuple):
    """An unfinished candidate, the one in row `row`, and a token that may be added to it."""

    score: float  # the candidate's score + the token's log-probability
    row: int
    token: int
    logprob: float


def beam_search(model, prompt, num_beams, max_new_tokens=MAX_NEW_TOKENS):
    """The finished candidates, a list of `Text`, for `prompt`, a list of token ids.

    The steps are those of the assignment, task 5. ValueError for num_beams below 1 or above the
    size of the vocabulary.
    """
    if not 1 <= num_beams <= model.config.vocab_size:
        raise ValueError(f"num_beams must be from 1 to the vocabulary's size, not {num_beams}")
    batch = Batch(model, prompt, max_new_tokens=max_new_tokens)
    unfinished = [Text()]  # step 2; unfinished[row] is row `row` of the KV cache
    finished = []  # step 3
    while unfinished and len(finished) < num_beams:
        # Step 5: num_beams continuations of each candidate. Step 4 is the first pass, in which
        # the only candidate is still empty.
        logprobs, tokens = step(batch).log_softmax(dim=-1).topk(num_beams)
        logprobs, tokens = logprobs.tolist(), tokens.tolist()  # (candidates, num_beams)
        continuations = []
        for row, candidate in enumerate(unfinished):
            score = candidate.score
            for token, logprob in zip(tokens[row], logprobs[row], strict=True):
                continuations.append(Continuation(score + logprob, row, token, logprob))

        # Step 6: rank them by score.
        continuations.sort(key=lambda continuation: continuation.score, reverse=True)

        # Step 7: those of the first num_beams that end are finished, the first num_beams of the
        # others go on. An EOS of lower rank is dropped.
        ending = [c for c in continuations[:num_beams] if c.token == batch.eos]
        going_on = [c for c in continuations if c.token != batch.eos][:num_beams]
        candidates = [extend(unfinished[c.row], c, batch) for c in ending + going_on]
        finished += [candidate for candidate in candidates if candidate.ending]
        unfinished = [candidate for candidate in candidates if not candidate.ending]

        # Step 8: again, unless num_beams candidates have finished. At the limit all have.
        batch.set_next([c.row for c in going_on], [c.token for c in going_on])
    return finished


def extend(candidate, continuation, batch):
    """A new candidate: others may extend the old one by another token."""
    tokens = [*candidate.tokens, continuation.token]
    logprobs = [*candidate.logprobs, continuation.logprob]
    return Text(tokens, logprobs, batch.ending(tokens))


def normalised_score(text, length_penalty):
    """score / length ** length_penalty (assignment, task 5); EOS counts in the length."""
    return text.score / len(text.tokens) ** length_penalty


def best(candidates, length_penalty):
    """The candidate with the highest normalised score. ValueError for a penalty not finite."""
    if not math.isfinite(length_penalty):
        raise ValueError(f"length_penalty must be a finite number, not {length_penalty}")
    return max(candidates, key=lambda text: normalised_score(text, length_penalty))


def ranking(found, tokenizer):
    """A table of all finished candidates, the winners of SETTINGS in bold.

    found: {num_beams: its finished candidates}.
    """
    rows = []
    for num_beams, texts in found.items():
        steps = max(len(text.tokens) for text in texts)
        for text in sorted(texts, key=lambda text: text.score, reverse=True):
            row = {"num_beams": num_beams, "steps": steps}
            row["ends"] = common.code(tokenizer.decode(text.tokens)[-40:])
            row |= {"length": len(text.tokens), "score": f"{text.score:.3f}"}
            for penalty in (0.5, 1.0, 2.0):
                shown = f"{normalised_score(text, penalty):.4g}"
                if (num_beams, penalty) in SETTINGS and text is best(texts, penalty):
                    shown = f"**{shown}**"
                row[f"score / length^{penalty}"] = shown
            rows.append(row)
    return common.table(rows)


def picture(model, tokenizer, prompt, num_beams=4, steps=3):
    """The candidates after each of a search's first steps, as a Mermaid flowchart."""
    names = {(): "start"}
    lines = ["```mermaid", "flowchart LR", "start([prompt])"]
    for limit in range(1, steps + 1):
        for candidate in beam_search(model, prompt, num_beams, limit):
            tokens = tuple(candidate.tokens)
            if tokens in names:  # finished at an earlier step
                continue
            names[tokens] = f"n{len(names)}"
            token = repr(tokenizer.decode(tokens[-1]))[1:-1].replace(" ", "\u2423")
            token = "".join(c if c.isalnum() else f"#{ord(c)};" for c in token)
            shape = f'(["{token}<br/>{candidate.score:.2f}"])'
            lines.append(f"{names[tokens[:-1]]} --> {names[tokens]}{shape}")
    return "\n".join([*lines, "```"])


def main(args):
    """Load, generate, print, write."""
    model, tokenizer = common.load(args.model)
    report = common.Report(args, model.device)
    for name, prompt in PROMPTS.items():
        prompt_ids = tokenizer(prompt).input_ids
        found = {}
        for num_beams in (1, 4, 8):
            found[num_beams] = beam_search(model, prompt_ids, num_beams, args.max_new_tokens)
        winners = {}
        for num_beams, penalty in SETTINGS:
            label = f"num_beams={num_beams}, length_penalty={penalty}"
            winners[label] = [best(found[num_beams], penalty)]
        report.add(common.section(name, winners, tokenizer))
        candidates = ranking(found, tokenizer)
        report.add(f"All finished candidates of `{name}`, the winners in bold:\n\n{candidates}")
    first_steps = picture(model, tokenizer, tokenizer(PROMPTS["json"]).input_ids)
    report.add(f"The first steps of the JSON's search, num_beams=4:\n\n{first_steps}")
    report.write()


if __name__ == "__main__":
    common.run(main, __doc__)
