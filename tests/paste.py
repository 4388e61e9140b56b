"""Paste outputs/ into README.md, so that the page is true of the model that wrote them.

    python tests/paste.py

- Each task's output goes into its section. Its table of all texts at a glance goes to the top of
  the page, where the five tables become one. Its folded texts are shortened: one that an earlier
  task has is named, a paragraph that stands three times or more in a row is shown once, with a count, and a
  text that is still longer than 40 lines is cut after its first 10.
- The survey's table goes into its own section, if the survey is of the same model.
- The line at the top says which model wrote the texts.
- A list of observations is written by hand, and its mark holds the fingerprint of the texts that it
  speaks of. When other texts are pasted, it becomes a comment that asks for a new list.
"""

import argparse
import hashlib
import itertools
import re
from pathlib import Path

import offline_model

ROOT = Path(__file__).resolve().parent.parent
ASSIGNMENTS_MODEL = "Qwen2.5-0.5B-Instruct"
GLANCE = "### At a glance\n\n"  # the last heading of an output
NO_SURVEY = (
    "The survey has not been run with this model: `python tests/survey.py`.\n\n"
    "С этой моделью подсчёт не запускался: `python tests/survey.py`.\n"
)
FOLDED = re.compile(
    r"<details><summary><b>(?P<label>.*?)</b>: (?P<length>.*?)</summary>\n\n"
    r"(?P<fence>`{3,})text\n(?P<text>.*?)\n(?P=fence)\n\n</details>",
    re.DOTALL,
)
OBSERVED = re.compile(
    r"<!-- observed (?P<what>outputs|survey) (?P<fingerprint>\w+) -->\n"
    r"(?P<list>.*?)"
    r"<!-- /observed -->\n",
    re.DOTALL,
)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def writer(name, output):
    """The model that wrote an output, as its first line says. ValueError where it does not."""
    match = re.match(r"Model `(.+?)`", output)
    if not match:
        raise ValueError(f"outputs/{name} does not begin with the name of a model")
    return match[1]


def writer_line(model):
    """Who wrote the texts, in both languages."""
    if model.rpartition("/")[2] == ASSIGNMENTS_MODEL:
        return (
            f"> The texts on this page were written by `{model}`, the assignment's model.\n>\n"
            f"> Тексты на этой странице написала модель из задания, `{model}`.\n"
        )
    if model == offline_model.NAME:
        return (
            f"> The texts on this page were written by a **stand-in**, `{model}`: the assignment's "
            f"model, {ASSIGNMENTS_MODEL}, could not be downloaded. The five scripts were run with "
            '`--model "$(python tests/offline_model.py)"`; '
            "[how to put its own texts here](#texts-of-your-own).\n>\n"
            f"> Тексты на этой странице написала **другая модель**, `{model}`: модель из задания "
            "скачать не удалось. Пять скриптов запущены с "
            '`--model "$(python tests/offline_model.py)"`; '
            "[как вставить сюда её тексты](#texts-of-your-own).\n"
        )
    return (
        f"> The texts on this page were written by `{model}`; the assignment's model is "
        f"{ASSIGNMENTS_MODEL}.\n>\n"
        f"> Тексты на этой странице написала модель `{model}`; модель из задания — "
        f"{ASSIGNMENTS_MODEL}.\n"
    )


def fingerprint(*outputs):
    """What identifies all that outputs say, but for their first lines: model, machine, versions."""
    bodies = [output.partition("\n")[2] for output in outputs]
    return hashlib.sha256("".join(bodies).encode()).hexdigest()[:12]


def shortened(text):
    """A text without the repetitions of a paragraph; if still over 40 lines, the first 10."""
    paragraphs = []
    for paragraph, same in itertools.groupby(text.split("\n\n")):
        count = len(list(same))
        if count > 2:
            paragraphs += [paragraph, f"[the same paragraph again, {count - 1}×]"]
        else:
            paragraphs += [paragraph] * count
    lines = "\n\n".join(paragraphs).split("\n")
    if len(lines) > 40:
        lines = [*lines[:10], f"[{len(lines) - 10} more lines]"]
    return "\n".join(lines)


def link(name):
    """A link to an output."""
    return f"[outputs/{name}](outputs/{name})"


def with_short_texts(outputs):
    """The outputs, with their folded texts shortened. outputs: {name of the file: its Markdown}."""
    places = {}  # of a text: the label and the file with which it came first

    def shortened_or_named(match):
        label, length, fence, text = match.group("label", "length", "fence", "text")
        first_label, first_name = places.setdefault(text, (label, name))
        if first_name != name:
            return f"**{label}**: the same text as {first_label} of {link(first_name)}."
        short = shortened(text)
        if short == text:
            return match[0]
        return (
            f"<details><summary><b>{label}</b>: {length}</summary>\n\n"
            f"{fence}text\n{short}\n{fence}\n\nThe whole text: {link(name)}\n\n</details>"
        )

    page_outputs = {}
    for name, output in outputs.items():
        page_outputs[name] = FOLDED.sub(shortened_or_named, output)
    return page_outputs


def split(name, output):
    """A task's output in parts: its first line, its texts, the lines of its table at a glance.

    Its legend is left out: the page has one of its own, at the top. ValueError for an output
    without the table.
    """
    facts, _, rest = output.partition("\n\n")
    _legend, _, rest = rest.partition("\n\n")
    texts, heading, glance = rest.rpartition(GLANCE)
    if not heading:
        raise ValueError(f"outputs/{name} has no table of its texts at a glance")
    return facts, texts, glance.strip().split("\n")


def between(page, begin, end, new):
    """The page with `new` between two marks. ValueError unless each stands in it once, in order."""
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"README.md must have {begin.strip()} and then {end.strip()}, once each")
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return before + begin + new + end + after


def with_true_lists(page, fingerprints):
    """The page, with each list hidden that speaks of other texts than the page now shows.

    fingerprints: {"outputs": …, "survey": …}. ValueError for a list without its end.
    """

    def true_or_hidden(match):
        now = fingerprints[match["what"]]
        if match["fingerprint"] == now:
            return match[0]
        hidden = match["list"].strip()
        old = COMMENT.sub("", hidden).strip()
        if old:  # else it is hidden already
            old = old.replace("->", "→")  # comments don't nest: nothing may end this one
            hidden = f"<!-- To be written anew, for the texts are others. It was:\n\n{old}\n-->"
        return f"<!-- observed {match['what']} {now} -->\n{hidden}\n<!-- /observed -->\n"

    lists = len(OBSERVED.findall(page))
    if not lists == page.count("<!-- observed ") == page.count("<!-- /observed "):
        raise ValueError("README.md has a list of observations without its beginning or its end")
    return OBSERVED.sub(true_or_hidden, page)


def paste(page, outputs, survey=""):
    """The page with the outputs in it. outputs: {name of the file: its Markdown}.

    survey: the survey's Markdown, or "". ValueError for a page that lacks a mark, for something
    that is no output, and for outputs of several models.
    """
    writers = {name: writer(name, output) for name, output in outputs.items()}
    if len(set(writers.values())) > 1:
        of_which = ", ".join(f"outputs/{name} of {model}" for name, model in writers.items())
        raise ValueError(f"the outputs are of several models: {of_which}")
    (model,) = set(writers.values())
    if survey and writer("survey.md", survey) != model:
        survey = ""

    page = between(page, "<!-- writer -->\n", "<!-- /writer -->\n", writer_line(model))
    tables = []
    for name, output in with_short_texts(outputs).items():
        facts, texts, table = split(name, output)
        tables.append(table)
        begin, end = f"<!-- begin outputs/{name} -->\n", f"<!-- end outputs/{name} -->\n"
        page = between(page, begin, end, f"\n{facts}\n\n{texts}")
    rows = [row for table in tables for row in table[2:]]
    glance = "\n".join(tables[0][:2] + rows)
    page = between(page, "<!-- glance -->\n", "<!-- /glance -->\n", f"\n{glance}\n\n")
    begin, end = "<!-- begin outputs/survey.md -->\n", "<!-- end outputs/survey.md -->\n"
    page = between(page, begin, end, f"\n{survey or NO_SURVEY}\n")
    fingerprints = {"outputs": fingerprint(*outputs.values()), "survey": fingerprint(survey)}
    return with_true_lists(page, fingerprints)


def read(path):
    """A file of outputs/. ValueError where it is missing."""
    if not path.exists():
        raise ValueError(f"outputs/{path.name} is missing: run {path.stem}.py first")
    return path.read_text(encoding="utf-8")


def main():
    """Paste, and say what is left to be done by hand. What can't be pasted is one message."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    readme = ROOT / "README.md"
    survey = ROOT / "outputs" / "survey.md"
    try:
        names = sorted(f"{path.stem}.md" for path in ROOT.glob("task*.py"))
        outputs = {name: read(ROOT / "outputs" / name) for name in names}
        survey_markdown = survey.read_text(encoding="utf-8") if survey.exists() else ""
        page = paste(readme.read_text(encoding="utf-8"), outputs, survey_markdown)
    except ValueError as error:
        parser.error(str(error))
    readme.write_bytes(page.encode())
    hidden = page.count("<!-- To be written")
    print(f"README.md is up to date. Lists of observations to be written by hand: {hidden}.")


if __name__ == "__main__":
    main()
