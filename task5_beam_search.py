"""Task 5. Early-stopped beam search: carry on the num_beams most probable unfinished texts.

The search stops when num_beams candidates have finished; at the limit all the others finish too.
length_penalty enters only the last ranking, so one search serves all its values.
"""

import math

import common
from common import MAX_NEW_TOKENS, PROMPTS, Decoding, step

import torch

SETTINGS = ((1, 1.0), (4, 1.0), (4, 0.5), (4, 2.0), (8, 1.0))  # (num_beams, length_penalty)


def search(prompt, num_beams, max_new_tokens=MAX_NEW_TOKENS, trace=None):
    """The finished candidates, a list of `Text` with its `score` (assignment, task 5, steps 2 to 8).

    trace: a list that gets what each step ranked, for `picture`.
    ValueError for num_beams below 1 or above the size of the vocabulary.
    """
    decoding = Decoding(prompt, max_new_tokens=max_new_tokens)
    if not 1 <= num_beams <= decoding.model.config.vocab_size:
        raise ValueError(f"num_beams must be from 1 to the vocabulary's size, not {num_beams}")
    scores = torch.zeros(1, device=decoding.pending.device)  # of the unfinished candidates
    finished = []
    while decoding.open and len(finished) < num_beams:
        logprobs = step(decoding).log_softmax(dim=-1)  # (candidates, vocabulary)
        added, tokens = logprobs.topk(num_beams)  # (candidates, num_beams)
        totals, tokens = (scores[:, None] + added).flatten(), tokens.flatten()
        ranking = totals.argsort(descending=True, stable=True)
        ranking = ranking[totals[ranking] > -torch.inf].tolist()  # some may be impossible
        eos = (tokens == decoding.eos).tolist()
        ending = [i for i in ranking[:num_beams] if eos[i]]
        going = [i for i in ranking if not eos[i]][:num_beams]
        if trace is not None:
            parents = [decoding.texts[row].tokens for row in decoding.open]
            trace.append((parents, ranking, tokens.tolist(), added.flatten(), ending, going))
        chosen = torch.tensor(ending + going, device=tokens.device)
        # Continuation i is candidate i // num_beams's. Those at EOS leave the batch.
        decoding.append(tokens[chosen], parents=chosen // num_beams)
        scores = totals[going]
        finished = [text for text in decoding.texts if text.ending]
    return finished


def normalised(text, length_penalty):
    """score / length ** length_penalty (assignment, task 5). length: of the tokens, EOS included."""
    return text.score / len(text.tokens) ** length_penalty


def best(candidates, length_penalty):
    """The candidate with the highest normalised score. ValueError for a penalty not finite."""
    if not math.isfinite(length_penalty):
        raise ValueError(f"length_penalty must be a finite number, not {length_penalty}")
    return max(candidates, key=lambda text: normalised(text, length_penalty))


def finals(found):
    """The finished candidates' scores, winners of SETTINGS in bold. found: {num_beams: texts}."""
    rows = []
    for num_beams, texts in found.items():
        for text in sorted(texts, key=lambda text: -text.score):
            steps = max(len(t.tokens) for t in texts)
            row = {"num_beams": num_beams, "steps": steps, "ends": common.code(text.text[-40:])}
            row |= {"length": len(text.tokens), "score": f"{text.score:.3f}"}
            for penalty in sorted({penalty for _, penalty in SETTINGS}):
                wins = (num_beams, penalty) in SETTINGS and text is best(texts, penalty)
                shown = f"{normalised(text, penalty):.4g}"
                row[f"score / length^{penalty}"] = f"**{shown}**" if wins else shown
            rows.append(row)
    return common.table(rows)


def picture(prompt, num_beams=4, steps=3):
    """The first steps of a search as a Mermaid flowchart, which GitHub draws."""
    trace, names, lines = [], {(): "start"}, ["```mermaid", "flowchart LR", "start([prompt])"]
    search(prompt, num_beams, steps, trace)
    tokenizer = Decoding(prompt).tokenizer
    for parents, ranking, tokens, logprobs, ending, going in trace:
        for i in ranking:
            parent = parents[i // num_beams]
            name = names[*parent, tokens[i]] = f"n{len(names)}"
            token = repr(tokenizer.decode(tokens[i]))[1:-1].replace(" ", "\u2423")
            token = "".join(c if c.isalnum() else f"#{ord(c)};" for c in token)
            fate = "finished" if i in ending else "kept" if i in going else "dropped"
            lines += [f'{names[*parent]} -- "{logprobs[i]:.2f}" --> {name}["{token}"]:::{fate}']
    colours = {"kept": "#cfc", "finished": "#ccf", "dropped": "#eee,stroke-dasharray:4"}
    lines += [f"classDef {fate} color:#000,fill:{colour}" for fate, colour in colours.items()]
    return "\n".join([*lines, "```"])


def main(args):
    for name, prompt in PROMPTS.items():
        beams = sorted({num_beams for num_beams, _ in SETTINGS})
        found = {n: search(prompt, n, args.max_new_tokens) for n in beams}
        winners = {f"num_beams={n}, length_penalty={p}": [best(found[n], p)] for n, p in SETTINGS}
        yield common.section(name, winners)
        yield f"All finished candidates of `{name}`, the winners in bold:\n\n{finals(found)}"
    yield f"The first steps of the JSON's search, num_beams=4:\n\n{picture(PROMPTS['json'])}"


if __name__ == "__main__":
    common.report(main, __doc__)
