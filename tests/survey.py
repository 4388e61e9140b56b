"""Count what 20 texts per setting of tasks 3 and 4 are like: half an hour on two CPU cores.

    python tests/survey.py

Writes Markdown to outputs/survey.md, and prints the same.
"""

import argparse
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

import common
import task3_temperature
import task4_nucleus


def loops(text):
    """Whether over half of a text's sequences of four tokens had occurred in it before."""
    fours = [tuple(text.tokens[i : i + 4]) for i in range(len(text.tokens) - 3)]
    return len(fours) - len(set(fours)) > len(fours) / 2


def different(texts):
    """How many different texts there are."""
    return len({tuple(text.tokens) for text in texts})


def story_counts(stories):
    """The cells of a row that speak of the stories of one setting."""
    return {
        "different stories": different(stories),
        "ended by EOS": sum(story.ended for story in stories),
        "loops": sum(loops(story) for story in stories),
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


def rows_of(task, labels, args, model, tokenizer, generator):
    """The rows of one task's module: for each of its settings, the counts of both prompts.

    labels: {setting: label}. args: of the command line.
    """
    settings = list(labels) * args.texts
    texts = {}  # by the name of the prompt
    for name, input_text in common.PROMPTS.items():
        prompt = tokenizer(input_text).input_ids
        texts[name] = task.sample(model, prompt, settings, generator, args.max_new_tokens)
    rows = []
    for setting, label in labels.items():
        stories = [text for text in texts["hedgehog"] if text.setting == setting]
        answers = [text for text in texts["json"] if text.setting == setting]
        row = {"setting": label}
        rows.append(row | story_counts(stories) | json_counts(answers, tokenizer))
    return rows


def main():
    """Load, decode, count, print, write."""
    parser = argparse.ArgumentParser(
        prog="tests/survey.py",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", default=common.MODEL_ID, help="Hub id or local folder")
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps; auto: a GPU if any")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument("--texts", type=int, default=20, help="texts per setting and prompt")
    limit_help = "limit of a text, in tokens"
    limit = common.MAX_NEW_TOKENS
    parser.add_argument("--max-new-tokens", type=int, default=limit, help=limit_help)
    args = parser.parse_args()
    if args.texts < 1:
        parser.error("--texts must be at least 1")
    model, tokenizer = common.check_and_load(parser, args)

    temperatures = {t: f"temperature={t}" for t in task3_temperature.TEMPERATURES}
    nuclei = {setting: task4_nucleus.label(*setting) for setting in task4_nucleus.SETTINGS}
    generator = torch.Generator().manual_seed(args.seed)
    rows = rows_of(task3_temperature, temperatures, args, model, tokenizer, generator)
    rows += rows_of(task4_nucleus, nuclei, args, model, tokenizer, generator)
    markdown = f"{common.provenance(args, model)}\n\n"
    markdown += f"{args.texts} texts per setting and prompt.\n\n{common.table(rows)}\n"
    common.write_output(__file__, markdown)
    print(markdown, end="")


if __name__ == "__main__":
    main()
