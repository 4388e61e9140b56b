"""Task 5. Early-stopped beam search: carry on the num_beams most probable unfinished texts.

The search stops when at least num_beams candidates have finished, or at the limit. The best of the
finished ones wins; where none has finished by the limit, the best of the unfinished ones.
length_penalty enters only the last ranking, so one search serves all its values.
"""

import common
from common import MAX_NEW_TOKENS, PROMPTS, Context, Text, progress, step

SETTINGS = ((1, 1.0), (4, 1.0), (4, 0.5), (4, 2.0), (8, 1.0))  # (num_beams, length_penalty)


def beam_search(model, prompt, num_beams, max_new_tokens=MAX_NEW_TOKENS):
    """Return the finished candidates, a list of `Text`; if there is none, the unfinished ones.

    prompt: a list of token ids. num_beams: above 0, else ValueError. See assignment, task 5.
    """
    if num_beams < 1:
        raise ValueError(f"num_beams must be above 0: {num_beams}")
    # Steps 2 and 4: one empty candidate instead of an empty list, so that step 5 does step 4, too.
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
        # the others go on. One that ended at a lower rank is dropped, as in `generate()`: step 7,
        # read literally, would let it go on, but nothing can follow EOS.
        finished += [candidate for candidate in candidates[:num_beams] if candidate.ended]
        unfinished = [candidate for candidate in candidates if not candidate.ended][:num_beams]
        if len(finished) >= num_beams:
            return finished

        # Step 8: repeat step 5.
    return finished or unfinished


def normalised_score(text, length_penalty):
    """score / length ** length_penalty (assignment, task 5); EOS counts in the length."""
    return text.score / len(text.tokens) ** length_penalty


def best(candidates, length_penalty):
    """The candidate with the highest normalised score."""
    return max(candidates, key=lambda text: normalised_score(text, length_penalty))


def row_of(name, num_beams, text, best_by_penalty, tokenizer):
    """A candidate's row. Under each penalty the score that wins is bold."""
    row = {"num_beams": num_beams, "candidate": common.facts(name, text, tokenizer)}
    row["score"] = f"{text.score:.2f}"
    for penalty, winner in best_by_penalty.items():
        digits = f"{normalised_score(text, penalty):#.3g}".rstrip(".")
        row[f"score / n^{penalty}"] = f"**{digits}**" if text is winner else digits
    row["text"] = common.excerpt(text, tokenizer)
    return row


def add_candidates(report, name, searches, tokenizer):
    """Add two tables of a prompt's searches, {num_beams: candidates}: the winners, then all."""
    penalties = sorted({penalty for _, penalty in SETTINGS})
    endings = []
    winners = []
    everyone = []
    for num_beams, candidates in searches.items():
        count = sum(text.ended for text in candidates)
        ending = "finished" if count >= num_beams else "finished by the limit"
        endings.append(f"num_beams={num_beams}: {count} {ending}")
        best_by_penalty = {penalty: best(candidates, penalty) for penalty in penalties}
        for text in sorted(candidates, key=lambda candidate: candidate.score, reverse=True):
            row = row_of(name, num_beams, text, best_by_penalty, tokenizer)
            everyone.append(row)
            if any(text is winner for winner in best_by_penalty.values()):
                winners.append(row)
    words = f"n is the number of tokens; bold: each search's highest; {'; '.join(endings)}"
    report.add_block(f"{name}, winners", words, winners)
    report.add_block(f"{name}, all candidates", words, everyone)


def main():
    """Load, generate, print, write."""
    args, model, tokenizer, report = common.start(__file__, __doc__)
    for name, input_text in PROMPTS.items():
        prompt = tokenizer(input_text).input_ids
        searches = {}
        for num_beams in sorted({num_beams for num_beams, _ in SETTINGS}):
            searches[num_beams] = beam_search(model, prompt, num_beams, args.max_new_tokens)
        texts = {}
        for num_beams, length_penalty in SETTINGS:
            label = f"num_beams={num_beams}, length_penalty={length_penalty}"
            texts[label] = best(searches[num_beams], length_penalty)
        report.add_texts(name, texts)
        add_candidates(report, name, searches, tokenizer)
    report.finish()


if __name__ == "__main__":
    main()
