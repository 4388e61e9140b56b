"""Task 5. Early-stopped beam search: carry on the num_beams most probable unfinished texts.

The search stops when num_beams candidates have finished; at the limit the unfinished ones count as
finished too. length_penalty enters only the last ranking, so one search serves all its values.
"""

import common
from common import MAX_NEW_TOKENS, PROMPTS, Context, Text, progress, step

SETTINGS = ((1, 1.0), (4, 1.0), (4, 0.5), (4, 2.0), (8, 1.0))  # (num_beams, length_penalty)


def beam_search(model, prompt, num_beams, max_new_tokens=MAX_NEW_TOKENS):
    """The finished candidates, a list of `Text`, for `prompt`, a list of token ids.

    The steps are those of the assignment, task 5.
    """
    # Step 2: one empty candidate, so that step 4 is the first pass of step 5.
    unfinished = [Text()]
    # Step 3.
    finished = []
    context = Context(model, prompt)
    for _ in progress(max_new_tokens):
        # Step 5: the num_beams best continuations of each unfinished candidate. A child's score is
        # its parent's + the log-probability of the token added.
        logits = step(context, unfinished)  # (unfinished, vocabulary)
        logprobs, tokens = logits.log_softmax(dim=-1).topk(num_beams)  # (unfinished, num_beams)
        candidates = []
        for row, parent in enumerate(unfinished):
            for token, logprob in zip(tokens[row].tolist(), logprobs[row].tolist(), strict=True):
                candidates.append(parent.extended(token, logprob))

        # Step 6: rank them by score.
        candidates.sort(key=lambda candidate: candidate.score, reverse=True)

        # Step 7: of the first num_beams, those that have ended are finished; the first num_beams of
        # the others go on. A candidate that ended at a lower rank is dropped.
        finished += [candidate for candidate in candidates[:num_beams] if candidate.ended]
        unfinished = [candidate for candidate in candidates if not candidate.ended][:num_beams]
        if len(finished) >= num_beams:
            return finished

        # Step 8: repeat step 5.
    return finished + unfinished


def normalised_score(text, length_penalty):
    """score / length ** length_penalty (assignment, task 5); EOS counts in the length."""
    return text.score / len(text.tokens) ** length_penalty


def best(candidates, length_penalty):
    """The candidate with the highest normalised score."""
    return max(candidates, key=lambda text: normalised_score(text, length_penalty))


def finished_tree(num_beams, finished, tokenizer):
    """All finished candidates of a search as a tree, with the settings that choose them."""
    leaves = []
    for text in sorted(finished, key=lambda text: text.score, reverse=True):
        note = f"{len(text.tokens)} tokens, score {text.score:.3f}"
        penalties = [penalty for beams, penalty in SETTINGS if beams == num_beams]
        wins = [str(penalty) for penalty in penalties if best(finished, penalty) is text]
        if wins:
            note += f"  ← length_penalty={', '.join(wins)}"
        leaves.append((text.tokens, note))
    title = f"The finished candidates with num_beams={num_beams}, what they share standing once:"
    return f"{title}\n\n{common.fenced(common.tree(leaves, tokenizer))}"


def main():
    """Load, generate, print, write."""
    args, model, tokenizer, report = common.start(__doc__)
    for name, prompt in PROMPTS.items():
        prompt_ids = tokenizer(prompt).input_ids
        finished = {}  # by num_beams: one search serves all penalties
        winners = {}
        for num_beams, length_penalty in SETTINGS:
            if num_beams not in finished:
                finished[num_beams] = beam_search(model, prompt_ids, num_beams, args.max_new_tokens)
            label = f"num_beams={num_beams}, length_penalty={length_penalty}"
            winners[label] = [best(finished[num_beams], length_penalty)]
        report.add(common.section(name, winners, tokenizer))
        for num_beams, texts in finished.items():
            report.add(finished_tree(num_beams, texts, tokenizer))
    report.write()


if __name__ == "__main__":
    main()
