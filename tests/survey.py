"""Count traits of 20 texts per setting of tasks 3 and 4: up to an hour on two CPU cores.

    python tests/survey.py

Prints Markdown, and writes it to outputs/survey.md; each task's rows go to stderr at once.
"""

import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import common
import task1_greedy
import task3_temperature
import task4_nucleus

SEEDS = range(20)  # every setting gets one text from each


def count_different(texts):
    """How many different texts there are."""
    return len({tuple(text.tokens) for text in texts})


def in_common(one, other):
    """How many tokens two texts have in common from the beginning."""
    count = 0
    for token, other_token in zip(one.tokens, other.tokens, strict=False):
        if token != other_token:
            break
        count += 1
    return count


def story_counts(stories, greedy_story):
    """The cells that count the stories of one setting."""
    like_greedy = statistics.median(in_common(story, greedy_story) for story in stories)
    length = statistics.median(len(story.tokens) for story in stories)
    return {
        "different stories": count_different(stories),
        "ended by EOS": sum(story.ended for story in stories),
        "repeats": sum(common.repeats(story) for story in stories),
        "like greedy": f"{like_greedy:g}",
        "median tokens": f"{length:g}",
    }


def json_counts(answers, tokenizer):
    """The cells that count the JSONs of one setting."""
    verdicts = [common.verdict(answer, tokenizer) for answer in answers]
    return {
        "different JSONs": count_different(answers),
        "valid": sum(not each.startswith(("not valid", "fenced")) for each in verdicts),
        "right": verdicts.count("right"),
    }


def rows_of(texts, labels, greedy_story, tokenizer):
    """The counts of one task's texts, {label of a setting: its row}.

    texts: {name of a prompt: its texts}. labels: {setting: label}.
    """
    rows = {}
    for setting, label in labels.items():
        stories = [text for text in texts["hedgehog"] if text.setting == setting]
        answers = [text for text in texts["json"] if text.setting == setting]
        counts = story_counts(stories, greedy_story) | json_counts(answers, tokenizer)
        rows[label] = {"setting": label} | counts
    return rows


def main():
    """Load, decode, count, print, write."""
    args, model, tokenizer, report = common.start(__file__, __doc__.splitlines()[0])
    prompts = {name: tokenizer(text).input_ids for name, text in common.PROMPTS.items()}
    task3_labels = {t: f"temperature={t}" for t in task3_temperature.TEMPERATURES}
    task4_labels = {pair: task4_nucleus.label(*pair) for pair in task4_nucleus.SETTINGS}
    report.add(
        f"{len(SEEDS)} texts per setting and prompt, one for each seed from {SEEDS[0]} to "
        f"{SEEDS[-1]}. *Like greedy*: how many tokens a story has in common with greedy's from the "
        "beginning, the median."
    )
    greedy_story = task1_greedy.greedy(model, prompts["hedgehog"], args.max_new_tokens)
    for task, labels in ((task3_temperature, task3_labels), (task4_nucleus, task4_labels)):
        texts = {}
        for name, prompt in prompts.items():
            texts[name] = task.sample(model, prompt, list(labels), SEEDS, args.max_new_tokens)
        rows = rows_of(texts, labels, greedy_story, tokenizer)
        # They are shown even if the rest is interrupted.
        print(common.table(list(rows.values())), file=sys.stderr)
        report.rows |= rows
    report.finish()


if __name__ == "__main__":
    main()
