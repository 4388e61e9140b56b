"""Compare the texts of tasks 1, 3 and 4, and say how probable the right answer is.

    python tests/compare.py

Decodes them anew, which takes some minutes on two CPU cores. Prints Markdown, and writes it to
outputs/compare.md. It counts places from 1, this code from 0.
"""

import json
import math
import sys
from decimal import Decimal
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from survey import in_common

import common
import task1_greedy
import task3_temperature
import task4_nucleus
from common import Context, Text, code, exponential_numbers, step
from task3_temperature import TEMPERATURES
from task4_nucleus import nucleus

TOP_P = 0.9  # "in" and "out" refer to this top_p's nucleus at T = 1.0
GREEDY = None  # greedy's text has no setting


def decode(model, prompt, seed, limit):
    """A prompt's texts by the tasks' own functions, {setting: text}.

    The settings are GREEDY, task 3's temperatures and task 4's pairs (temperature, top_p).
    """
    texts = [task1_greedy.greedy(model, prompt, limit)]
    texts += task3_temperature.sample(model, prompt, TEMPERATURES, [seed], limit)
    texts += task4_nucleus.sample(model, prompt, task4_nucleus.SETTINGS, [seed], limit)
    return {text.setting: text for text in texts}


def logits_after(model, prompt, tokens):
    """The logits of the token that follows `prompt` and `tokens`, float32 (vocabulary,)."""
    return step(Context(model, prompt + tokens), [Text()])[0].cpu()


def logits_along(model, prompt, tokens):
    """Read a text token by token; yield the logits of each of its tokens, (vocabulary,)."""
    text = Text()
    context = Context(model, prompt)
    for place in common.progress(len(tokens)):
        yield step(context, [text])[0].cpu()
        text.tokens.append(tokens[place])


def in_nucleus(probs):
    """A mask of the tokens in the nucleus of TOP_P, bool (vocabulary,). probs: (vocabulary,)."""
    return nucleus(probs.unsqueeze(0), TOP_P)[0] > 0


def rank(token, probs):
    """The token's rank; 1 is the most probable."""
    return int((probs > probs[token]).sum()) + 1


def on_one_line(string):
    """The string on one line: signs for line feeds and tabs, unprintable characters escaped."""
    return common.visible(string).replace("\n", "⏎").replace("\t", "⇥")


def shown(token, tokenizer):
    """A single token as code, with signs for its blanks; its number if it decodes to nothing."""
    string = on_one_line(tokenizer.decode([token])).replace(" ", "␣")
    return code(string) if string else str(token)


def percent(probability):
    """A probability, rounded: "14 %", "99.6 %", "< 0.01 %"."""
    number = 100 * float(probability)
    if number < 0.01:
        return "< 0.01 %"
    if number >= 99.95:
        return "> 99.9 %"
    digits = f"{number:#.3g}" if number > 99 else f"{number:#.2g}"
    return f"{digits.rstrip('.')} %"


def with_probability(token, probs, tokenizer):
    """A token in words: "`␣in` 85 %"."""
    return f"{shown(token, tokenizer)} {percent(probs[token])}"


def with_rank(token, probs, tokenizer):
    """A token in words: "`␣small` 33 %, rank 2"."""
    return f"{with_probability(token, probs, tokenizer)}, rank {rank(token, probs)}"


def one_step(model, tokenizer, prompts, texts, seed):
    """Words and rows for the first place where T = 1.0 parts from greedy, JSON first; or None."""
    for name in ("json", "hedgehog"):
        text, greedy = texts[name][1.0], texts[name][GREEDY]
        if text.tokens != greedy.tokens:
            place = in_common(text, greedy)
            before = greedy.tokens[:place]
            logits = logits_after(model, prompts[name], before)
            g = g_of_step(place, len(logits), seed)
            words = f"{name}, place {place + 1}, after {last_words(before, tokenizer)}"
            return words, one_step_rows(logits, g, tokenizer)
    return None


def g_of_step(place, size, seed):
    """g = -ln E of the step that draws the token at `place`, float64 (size,)."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(place):
        exponential_numbers(size, generator)  # earlier steps used these
    return -exponential_numbers(size, generator).log()


def last_words(tokens, tokenizer):
    """The last four words as code, keeping a blank at the end; or "the prompt"."""
    string = on_one_line(tokenizer.decode(tokens))
    blank = " " if string.endswith(" ") else ""
    return code(" ".join(string.split()[-4:]) + blank) if tokens else "the prompt"


def one_step_rows(logits, g, tokenizer):
    """The tokens that matter at a step, the most probable first.

    logits: float32 (vocabulary,). g: float64 (vocabulary,), -ln E of the step.
    """
    probs = logits.softmax(dim=-1)
    inside = in_nucleus(probs)
    z = (logits - logits.max()).double()
    sums = {temperature: z + temperature * g for temperature in TEMPERATURES[1:]}  # 0.001 is greedy
    winners = {temperature: int(values.argmax()) for temperature, values in sums.items()}
    inside_winner = int(sums[1.0].where(inside, -math.inf).argmax())
    best = probs.topk(4).indices.tolist()
    tokens = {*best, *winners.values(), inside_winner}
    rows = []
    for token in sorted(tokens, key=lambda token: -probs[token]):
        row = {
            "token": shown(token, tokenizer),
            "p": percent(probs[token]),
            "nucleus": "in" if inside[token] else "out",
            "z": f"{z[token]:z.2f}",  # this format has no -0.00
            "g": f"{g[token]:z.2f}",
        }
        for temperature, values in sums.items():
            digits = f"{values[token]:z.2f}"
            row[f"T = {temperature}"] = f"**{digits}**" if token == winners[temperature] else digits
        row["ahead of the first from"] = ahead_from(token, best[0], z, g)
        rows.append(row)
    return rows


def ahead_from(token, first, z, g):
    """The T above which the token's z + T g exceeds the most probable one's."""
    if token == first:
        return ""
    if g[token] <= g[first]:
        return "never"
    return f"T = {(z[first] - z[token]) / (g[token] - g[first]):.2f}"


def beginning_in_common(text, other):
    """How many tokens two texts have in common from the beginning: "14", "all 26"."""
    count = in_common(text, other)
    return f"all {count}" if text.tokens == other.tokens else str(count)


def parting(model, prompt, text, other, temperature):
    """The place where two texts of a prompt part, and the probabilities there, (vocabulary,)."""
    place = in_common(text, other)
    logits = logits_after(model, prompt, text.tokens[:place])
    return place, (logits / temperature).softmax(dim=-1)


def like_greedy_rows(model, tokenizer, prompts, texts):
    """A row for each temperature: where its texts part from greedy's."""
    rows = []
    for temperature in TEMPERATURES:
        row = {"T": temperature}
        for name, prompt in prompts.items():
            text, greedy = texts[name][temperature], texts[name][GREEDY]
            drawn = instead = ""
            if text.tokens != greedy.tokens:
                place, probs = parting(model, prompt, text, greedy, temperature)
                drawn = with_rank(text.tokens[place], probs, tokenizer)
                instead = with_probability(greedy.tokens[place], probs, tokenizer)
            row[f"{name}: like greedy"] = beginning_in_common(text, greedy)
            row[f"{name}: drawn"] = drawn
            row[f"{name}: instead of"] = instead
        rows.append(row)
    return rows


def rarest(model, tokenizer, prompts, texts):
    """Words and rows for the eight least probable tokens of the story of T = 1.0."""
    story, noise = texts["hedgehog"][1.0], texts["hedgehog"][10.0]
    outside = 0
    found = []  # (probability, place, rank) of each token
    for place, logits in enumerate(logits_along(model, prompts["hedgehog"], story.tokens)):
        token = story.tokens[place]
        probs = logits.softmax(dim=-1)
        found.append((float(probs[token]), place, rank(token, probs)))
        outside += int(not in_nucleus(probs)[token])
    words = (
        f"the least probable tokens of the story at T = 1.0. Of its {len(found)} tokens {outside} "
        f"are outside the nucleus of top_p = {TOP_P}; {same_places(story, noise)} stand in the "
        "same place in the story at T = 10.0. The two prompts' texts at T = 10.0 share "
        f"{same_places(noise, texts['json'][10.0])} places"
    )
    rows = []
    for probability, place, token_rank in sorted(found)[:8]:
        token = story.tokens[place]
        row = {"place": place + 1, "token": shown(token, tokenizer)}
        row |= {"p": f"{probability:.0e}", "rank": token_rank}
        row["T = 10.0 has there"] = what_is_there(noise, place, token, tokenizer)
        rows.append(row)
    return words, rows


def what_is_there(text, place, token, tokenizer):
    """What a text has at a place: "the same" as the token, another, or nothing."""
    if place >= len(text.tokens):
        return ""
    return "the same" if text.tokens[place] == token else shown(text.tokens[place], tokenizer)


def same_places(text, other):
    """How many places of the shorter text hold the same token in both: "8 of 250"."""
    pairs = list(zip(text.tokens, other.tokens, strict=False))
    return f"{sum(token == other_token for token, other_token in pairs)} of {len(pairs)}"


def removed_rows(model, tokenizer, prompts, texts):
    """A row for each text of task 4: where it parts from the text without the cut."""
    rows = []
    for name, (temperature, top_p) in product(prompts, task4_nucleus.SETTINGS):
        text, uncut = texts[name][temperature, top_p], texts[name][temperature]
        removed = drawn = rule = ""
        if text.tokens != uncut.tokens:
            place, probs = parting(model, prompts[name], uncut, text, temperature)
            token = uncut.tokens[place]
            removed = with_rank(token, probs, tokenizer)
            drawn = with_probability(text.tokens[place], probs, tokenizer)
            # The paper keeps the fewest tokens whose sum reaches top_p (eq. 2).
            keeps = probs[probs > probs[token]].sum() < top_p
            rule = "keeps it" if keeps else "removes it too"
        rows.append(
            {
                "setting": task4_nucleus.label(temperature, top_p),
                "prompt": name,
                "like greedy": beginning_in_common(text, texts[name][GREEDY]),
                "like uncut": beginning_in_common(text, uncut),
                "removed": removed,
                "drawn instead": drawn,
                "the paper's rule": rule,
            }
        )
    return rows


def right_answer(model, tokenizer, prompt):
    """Words and rows for the right answer, in the more probable one of its two spellings."""
    answer = json.dumps(common.RIGHT_ANSWER)
    spellings = []
    for spelling in (answer, answer.replace("100.5", "100.50")):
        tokens = [*tokenizer(spelling).input_ids, common.EOS]
        along = [logits.log_softmax(dim=-1) for logits in logits_along(model, prompt, tokens)]
        spellings.append((sum(scores_of(tokens, along)), spelling, tokens, along))
    _score, spelling, tokens, along = max(spellings, key=lambda each: each[0])
    return f"{code(spelling)}, token by token", right_answer_rows(tokens, along, tokenizer)


def scores_of(tokens, along):
    """The log-probability of each token. along: for each token its logprobs, (vocabulary,)."""
    return [float(logprobs[token]) for token, logprobs in zip(tokens, along, strict=True)]


def right_answer_rows(tokens, along, tokenizer):
    """A row for each token that is not rank 1, one for all others, one for the whole answer."""
    scores = scores_of(tokens, along)
    others = []  # scores of the tokens that are rank 1
    rows = []
    for place, (token, logprobs) in enumerate(zip(tokens, along, strict=True)):
        probs = logprobs.exp()
        if rank(token, probs) == 1:
            others.append(scores[place])
        else:
            before = on_one_line(tokenizer.decode(tokens[max(0, place - 4) : place]))
            greedys = with_probability(int(probs.argmax()), probs, tokenizer)
            nucleus_cell = "in" if in_nucleus(probs)[token] else "out"
            after = code(before) if before else "the prompt"
            rows.append([after, with_rank(token, probs, tokenizer), greedys, nucleus_cell])
    if others:
        joint = percent(math.exp(sum(others)))
        rows.append([f"the other {len(others)} tokens, each rank 1", joint, "", "in"])
    score = sum(scores)
    whole = f"1 in {one_in(score)}, score {score:.2f}, {score / len(tokens):.3f} a token"
    rows.append(["the whole answer", whole, "", ""])
    columns = ["after", "right", "greedy takes", "nucleus"]
    return [dict(zip(columns, row, strict=True)) for row in rows]


def one_in(score):
    """N of "1 in N", in two digits, for a sum of log-probabilities."""
    number = Decimal(-score).exp()  # math.exp overflows above 709
    if number < Decimal("9.95"):
        return f"{number:.1f}"
    rounded = f"{number:.1e}"
    return rounded if number > 10**12 else f"{Decimal(rounded):,.0f}"


def main():
    """Load, decode, compare, print, write."""
    args, model, tokenizer, report = common.start(__file__, __doc__.splitlines()[0], draws=True)
    prompts = {name: tokenizer(text).input_ids for name, text in common.PROMPTS.items()}
    texts = {}
    for name, prompt in prompts.items():
        texts[name] = decode(model, prompt, args.seed, args.max_new_tokens)
    everything = (model, tokenizer, prompts, texts)
    found = one_step(*everything, args.seed)
    if found:
        report.add_block("one step", *found)
    report.add_block("like greedy", "where texts part from greedy's", like_greedy_rows(*everything))
    report.add_block("rarest", *rarest(*everything))
    words = "where texts with `top_p` part from those without"
    report.add_block("removed", words, removed_rows(*everything))
    report.add_block("right answer", *right_answer(model, tokenizer, prompts["json"]))
    report.write()


if __name__ == "__main__":
    main()
