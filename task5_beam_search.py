"""Task 5. Early-stopped beam search: carry on the num_beams most probable unfinished texts.

The search stops when at least num_beams candidates have finished; at the limit the unfinished ones
count as finished too.
length_penalty enters only the last ranking, so one search serves all its values.
"""

import common
from common import MAX_NEW_TOKENS, PROMPTS, Context, Text, progress, step

SETTINGS = ((1, 1.0), (4, 1.0), (4, 0.5), (4, 2.0), (8, 1.0))  # (num_beams, length_penalty)


def beam_search(model, prompt, num_beams, max_new_tokens=MAX_NEW_TOKENS):
    """Return the finished candidates, a list of `Text`; at the limit, the unfinished ones too.

    prompt: a list of token ids. The steps are those of the assignment, task 5.
    """
    # Steps 2 and 4: instead of an empty list, one candidate without tokens. Step 5 continues it
    # with the num_beams best first tokens.
    unfinished = [Text()]
    finished = []  # step 3
    context = Context(model, prompt)
    for _ in progress(max_new_tokens):
        # Step 5: the num_beams best continuations of each unfinished candidate. A child's score is
        # its parent's + the log-probability of the token added.
        logits = step(context, unfinished)  # (unfinished, vocabulary)
        logprobs, tokens = logits.log_softmax(dim=-1).topk(num_beams)  # (unfinished, num_beams)
        candidates = []
        for row, parent in enumerate(unfinished):
            for logprob, token in zip(logprobs[row].tolist(), tokens[row].tolist(), strict=True):
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
    penalties = [penalty for beams, penalty in SETTINGS if beams == num_beams]
    leaves = []
    for text in sorted(finished, key=lambda text: text.score, reverse=True):
        note = f"{len(text.tokens)} tokens, score {text.score:.3f}"
        wins = [str(penalty) for penalty in penalties if best(finished, penalty) is text]
        if wins:
            note += f"  ← length_penalty={', '.join(wins)}"
        leaves.append((text.tokens, note))
    title = (
        f"The finished candidates with num_beams={num_beams}, shared beginnings shown once; "
        "an arrow marks the highest `score / length ** length_penalty`:"
    )
    return f"{title}\n\n{common.fenced(common.tree(leaves, tokenizer))}"


def main():
    """Load, generate, print, write."""
    args, model, tokenizer, report = common.start(__doc__)
    for name, input_text in PROMPTS.items():
        prompt = tokenizer(input_text).input_ids
        searches = {}  # by num_beams, because one search serves all penalties
        winners = {}
        for num_beams, length_penalty in SETTINGS:
            if num_beams not in searches:
                searches[num_beams] = beam_search(model, prompt, num_beams, args.max_new_tokens)
            label = f"num_beams={num_beams}, length_penalty={length_penalty}"
            winners[label] = [best(searches[num_beams], length_penalty)]
        report.add(common.section(name, winners, tokenizer))
        for num_beams, finished in searches.items():
            report.add(finished_tree(num_beams, finished, tokenizer))
    report.write()


if __name__ == "__main__":
    main()
