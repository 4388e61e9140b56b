"""Task 5. Early-stopped beam search: carry on the num_beams most probable unfinished texts.

The search stops when num_beams candidates have finished; at the limit the unfinished ones count as
finished too.
length_penalty enters only the last ranking, so one search serves all its values.
"""

import math
from dataclasses import dataclass

import common
from common import MAX_NEW_TOKENS, PROMPTS, Batch, Text, step

SETTINGS = ((1, 1.0), (4, 1.0), (4, 0.5), (4, 2.0), (8, 1.0))  # (num_beams, length_penalty)


@dataclass
class Candidate(Text):
    """A text, and the row of the KV cache that its last token continues."""

    row: int = 0


def beam_search(model, prompt, num_beams, max_new_tokens=MAX_NEW_TOKENS):
    """The finished candidates, a list of `Text`, for `prompt`, a list of token ids.

    The steps are those of the assignment, task 5. ValueError for num_beams below 1 or above the
    size of the vocabulary.
    """
    if not 1 <= num_beams <= model.config.vocab_size:
        raise ValueError(f"num_beams must be from 1 to the vocabulary's size, not {num_beams}")
    batch = Batch(model, prompt, max_new_tokens=max_new_tokens)
    # Step 2: one empty candidate, so that step 4 is the first pass of step 5.
    unfinished = [Candidate()]
    # Step 3.
    finished = []
    while unfinished and len(finished) < num_beams:
        # Step 5: the num_beams best continuations of each unfinished candidate. A score is the sum of
        # a candidate's log-probabilities: its parent's score + that of the token added.
        logprobs, tokens = step(batch).log_softmax(dim=-1).topk(num_beams)
        logprobs, tokens = logprobs.tolist(), tokens.tolist()  # (unfinished, num_beams)
        candidates = []
        for row, parent in enumerate(unfinished):
            for token, logprob in zip(tokens[row], logprobs[row], strict=True):
                candidate = Candidate([*parent.tokens, token], [*parent.logprobs, logprob], row=row)
                candidate.ending = batch.ending_of(candidate.tokens)
                candidates.append(candidate)

        # Step 6: rank them by score.
        candidates.sort(key=lambda candidate: candidate.score, reverse=True)

        # Step 7: of the first num_beams, those that end in EOS are finished; the first num_beams of
        # the others go on. An EOS of lower rank is dropped.
        finished += [c for c in candidates[:num_beams] if c.ending == "EOS"]
        others = [c for c in candidates if c.ending != "EOS"][:num_beams]
        finished += [c for c in others if c.ending == "limit"]
        unfinished = [c for c in others if not c.ending]

        # Step 8 repeats step 5, which reads this:
        batch.set_next([c.row for c in unfinished], [c.tokens[-1] for c in unfinished])
    return finished


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
            for penalty in sorted({penalty for _, penalty in SETTINGS}):
                shown = f"{normalised_score(text, penalty):.4g}"
                if (num_beams, penalty) in SETTINGS and text is best(texts, penalty):
                    shown = f"**{shown}**"
                row[f"score / length^{penalty}"] = shown
            rows.append(row)
    return common.table(rows)


def picture(model, tokenizer, prompt):
    """The candidates after each of a search's first three steps, as a Mermaid flowchart."""
    names = {(): "start"}
    lines = ["```mermaid", "flowchart LR", "start([prompt])"]
    for steps in (1, 2, 3):
        # A search cut short after so many steps returns all the candidates that it still holds.
        for candidate in beam_search(model, prompt, 4, max_new_tokens=steps):
            tokens = tuple(candidate.tokens)
            if tokens in names:  # finished at an earlier step
                continue
            names[tokens] = f"n{len(names)}"
            token = common.visible(tokenizer.decode(tokens[-1]))
            token = token.replace(" ", "␣").replace("\n", "↵")
            token = "".join(c if c.isalnum() else f"#{ord(c)};" for c in token)  # Mermaid's escapes
            box = f'(["{token}<br/>{candidate.score:.2f}"])'
            lines.append(f"{names[tokens[:-1]]} --> {names[tokens]}{box}")
    return "\n".join([*lines, "```"])


def main(args):
    """Load, generate, print, write."""
    model, tokenizer = common.load(args.model)
    report = common.Report(args, model.device)
    for name, prompt in PROMPTS.items():
        prompt_ids = tokenizer(prompt).input_ids
        found = {}
        for num_beams in sorted({num_beams for num_beams, _ in SETTINGS}):
            found[num_beams] = beam_search(model, prompt_ids, num_beams, args.max_new_tokens)
        winners = {}
        for num_beams, penalty in SETTINGS:
            label = f"num_beams={num_beams}, length_penalty={penalty}"
            winners[label] = [best(found[num_beams], penalty)]
        report.add(common.section(name, winners, tokenizer))
        ranked = ranking(found, tokenizer)
        report.add(f"All finished candidates of `{name}`, the winners in bold:\n\n{ranked}")
    caption = "The first steps of the JSON's search with 4 beams: a token, and the score up to it:"
    drawn = picture(model, tokenizer, tokenizer(PROMPTS["json"]).input_ids)
    report.add(f"{caption}\n\n{drawn}")
    report.write()


if __name__ == "__main__":
    common.run(main, __doc__)
