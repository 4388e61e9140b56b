"""Count what 20 texts per setting of tasks 3 and 4 are like: an hour or more on two CPU cores.

    python tests/survey.py

Prints Markdown, and writes it to outputs/survey.md; each task's rows go to stderr at once.
"""

import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

import common
import task3_temperature
import task4_nucleus

TEXTS_PER_SETTING = 20  # for each prompt


def different(texts):
    """How many different texts there are."""
    return len({tuple(text.tokens) for text in texts})


def story_counts(stories):
    """The cells of a row that speak of the stories of one setting."""
    return {
        "different stories": different(stories),
        "ended by EOS": sum(story.ended for story in stories),
        "repeats": sum(common.repeats(story) for story in stories),
        "median tokens": f"{statistics.median(len(story.tokens) for story in stories):g}",
    }


def json_counts(answers, tokenizer):
    """The cells of a row that speak of the JSONs of one setting."""
    verdicts = [common.verdict(answer, tokenizer) for answer in answers]
    return {
        "different JSONs": different(answers),
        "valid": len(verdicts) - verdicts.count("not valid"),
        "right": verdicts.count("right"),
    }


def rows_of(task, labels, model, tokenizer, generator, max_new_tokens):
    """The counts of one task's module, {label of a setting: its row}. labels: {setting: label}."""
    settings = list(labels) * TEXTS_PER_SETTING
    texts = {}  # by the name of the prompt
    for name, input_text in common.PROMPTS.items():
        prompt = tokenizer(input_text).input_ids
        texts[name] = task.sample(model, prompt, settings, generator, max_new_tokens)
    rows = {}
    for setting, label in labels.items():
        stories = [text for text in texts["hedgehog"] if text.setting == setting]
        answers = [text for text in texts["json"] if text.setting == setting]
        counts = story_counts(stories) | json_counts(answers, tokenizer)
        rows[label] = {"setting": label} | counts
    return rows


def main():
    """Load, decode, count, print, write."""
    description = __doc__.splitlines()[0]
    args, model, tokenizer, report = common.start(__file__, description, draws=True)
    task3_labels = {t: f"temperature={t}" for t in task3_temperature.TEMPERATURES}
    task4_labels = {pair: task4_nucleus.label(*pair) for pair in task4_nucleus.SETTINGS}
    generator = torch.Generator().manual_seed(args.seed)
    report.add(f"{TEXTS_PER_SETTING} texts per setting and prompt.")
    for task, labels in ((task3_temperature, task3_labels), (task4_nucleus, task4_labels)):
        rows = rows_of(task, labels, model, tokenizer, generator, args.max_new_tokens)
        print(common.table(list(rows.values())), file=sys.stderr)  # kept if the rest is interrupted
        report.rows |= rows
    report.finish()


if __name__ == "__main__":
    main()
