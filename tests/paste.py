"""Paste outputs/ into README.md: python tests/paste.py

The texts of an output go between `<!-- begin NAME -->` and `<!-- end NAME -->`, its table between
the marks of `NAME table`. Where the page has marks of `NAME TITLE`, the block of that title goes
there. The overview says who wrote the texts, and counts what the tables say.

Observations stand between `<!-- observed NAME NAME -->`, which names the outputs that they speak
of, and `<!-- /observed -->`: if such an output has changed, they become a comment that asks for new
ones.
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TASKS = [
    "task1_greedy.md",
    "task2_sampling.md",
    "task3_temperature.md",
    "task4_nucleus.md",
    "task5_beam_search.md",
]
COMPARE = "compare.md"
SURVEY = "survey.md"
COMPARE_TITLES = ["one step", "like greedy", "rarest", "removed", "right answer"]
FIRST_LINE = re.compile(r"Model (.+) on .+?;(?: seed (\d+);)? at most (\d+) tokens a text;")
BLOCK = re.compile(r"^\*\*(.+?)\*\*: .+\n\n\|.*(?:\n\|.*)*", re.MULTILINE)
OBSERVED = re.compile(r"<!-- observed (.*?) -->\n(.*?)<!-- /observed -->\n", re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
OVERVIEW_HEAD = """\
| task | stories | ended by EOS | repeats | valid JSONs | right contractor | right sum | \
right currency | right |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def options_of(name, output):
    """The options that an output's first line tells, {option: value}; a seed may be None."""
    found = FIRST_LINE.match(output)
    if not found:
        raise ValueError(f"outputs/{name} has no first line that names its model and its limit")
    return dict(zip(("--model", "--seed", "--max-new-tokens"), found.groups(), strict=True))


def of_one_run(outputs):
    """The outputs, with None for compare.md and survey.md where they are of another run.

    ValueError where the tasks differ among themselves. All are compared with task 2, whose first
    line tells all options.
    """
    task2 = TASKS[1]
    wanted = options_of(task2, outputs[task2])
    kept = dict(outputs)
    for name, output in outputs.items():
        if output is None:
            continue
        differing = []
        for option, value in options_of(name, output).items():
            if value not in (None, wanted[option]):
                differing.append(f"{option} {wanted[option]} and {value}")
        if differing:
            words = (
                f"outputs/{task2} and outputs/{name} are of different runs: {', '.join(differing)}"
            )
            if name in TASKS:
                raise ValueError(f"{words}; run them again with the same options")
            print(f"Left out: {words}", file=sys.stderr)
            kept[name] = None
    return kept


def pieces_of(name, output, marks):
    """What goes between an output's marks, {mark: Markdown}; `marks` are those of the page."""
    blocks = {f"{name} {block[1]}": block[0] for block in BLOCK.finditer(output or "")}
    command = f"*Not computed for these texts: `python tests/{name.removesuffix('.md')}.py`.*"
    if name == COMPARE:
        if output is None:
            blocks = {f"{name} {title}": command for title in COMPARE_TITLES}
        blocks.setdefault(f"{name} one step", "*The texts do not part: there is no such step.*")
        return {mark: block for mark, block in blocks.items() if mark in marks}
    if output is None:
        return {name: command, f"{name} table": ""}
    before_legend, _, _legend = output.strip().rpartition("\n\n")
    texts, _, table = before_legend.rpartition("\n\n")
    if not table.startswith("| setting | "):
        raise ValueError(f"outputs/{name} has no table as its last paragraph but one")
    open_blocks = {mark: block for mark, block in blocks.items() if mark in marks}
    for block in open_blocks.values():
        texts = texts.replace(f"\n\n{block}", "")  # it is not repeated among the texts
    return {name: texts, f"{name} table": table} | open_blocks


def replaced(page, mark, new):
    """The page with `new` between these marks, and what stood there before."""
    begin, end = f"<!-- begin {mark} -->\n", f"<!-- end {mark} -->\n"
    before, _, rest = page.partition(begin)
    old, _, after = rest.partition(end)
    if page.count(begin) != 1 or page.count(end) != 1 or end not in rest:
        raise ValueError(f"README.md must have {begin.strip()} and then {end.strip()}, once each")
    return f"{before}{begin}\n{new}\n\n{end}{after}", old.strip()


def essence(markdown):
    """Markdown as it is compared: without its first line, and without what editors format."""
    if markdown.startswith("Model "):
        # Who wrote it may change: with another version of torch, for example.
        markdown = markdown.partition("\n\n")[2]
    return re.sub(r"[\s*_`]|-{3,}", "", markdown)


def facts_of(cell):
    """What a table says of a text before its excerpt, a list: ["fenced", "wrong sum", …]."""
    return cell.partition("`")[0].strip().split(", ")


def overview_row(name, table):
    """A task's row of the overview, counted from its table."""
    rows = [row[2:-2].split(" | ") for row in table.split("\n")[2:]]
    stories = [facts_of(story) for _setting, story, _answer in rows]
    answers = [facts_of(answer) for _setting, _story, answer in rows]
    parsed = [facts for facts in answers if "not valid" not in facts]
    unfenced = [facts for facts in parsed if "fenced" not in facts]
    counts = [len(stories)]
    counts.append(sum("cut" not in story for story in stories))
    counts.append(sum("repeats" in story for story in stories))
    counts.append(len(unfenced))
    for field in ("contractor", "sum", "currency"):
        counts.append(sum(field not in " ".join(facts) for facts in parsed))
    counts.append(sum("right" in facts for facts in unfenced))
    return f"| {name.removesuffix('.md')} | {' | '.join(map(str, counts))} |"


def with_outdated_hidden(page, changed):
    """Hide each list of observations that speaks of a changed output; return the page.

    changed: the names of these outputs. ValueError for wrong marks.
    """
    lists = OBSERVED.findall(page)
    if not len(lists) == page.count("<!-- observed ") == page.count("<!-- /observed -->"):
        raise ValueError("README.md has a wrong <!-- observed … --> or <!-- /observed -->")
    for names, written in lists:
        if not set(names.split()) <= {*TASKS, COMPARE, SURVEY}:
            raise ValueError(f"README.md has a list of {names}, not all of them outputs")
        visible = COMMENT.sub("", written).strip()
        if visible and changed & set(names.split()):
            kept = re.sub("-+!?>", "→", visible)  # nothing in it may end the comment
            hidden = f"<!-- To be written anew, the outputs being others. It was:\n\n{kept}\n-->\n"
            mark = f"<!-- observed {names} -->\n"
            page = page.replace(f"{mark}{written}<!-- /", f"{mark}{hidden}<!-- /")
    return page


def paste(page, outputs):
    """The page with the outputs in it. outputs: {name: Markdown}, None for one that is missing.

    ValueError for a page whose marks are wrong, and for an output without its tables.
    """
    marks = re.findall("<!-- begin (.+) -->", page)
    who_wrote_them, _, _ = outputs[TASKS[0]].partition("\n")
    overview = [who_wrote_them, "", OVERVIEW_HEAD]
    known = {"overview"}
    changed = set()
    for name, output in outputs.items():
        pieces = pieces_of(name, output, marks)
        for mark, piece in pieces.items():
            page, old = replaced(page, mark, piece)
            if essence(old) != essence(piece):
                changed.add(name)
        if name in TASKS:
            overview.append(overview_row(name, pieces[f"{name} table"]))
        known |= set(pieces)
    page, _ = replaced(page, "overview", "\n".join(overview))
    if not set(marks) <= known:
        raise ValueError(f"README.md has marks of what outputs/ lacks: {set(marks) - known}")
    return with_outdated_hidden(page, changed)


def main():
    """Paste, and say what is left to be done by hand. What can't be pasted ends in one message."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    readme = ROOT / "README.md"
    outputs = {}
    try:
        for name in (*TASKS, COMPARE, SURVEY):
            path = ROOT / "outputs" / name
            if name in TASKS or path.exists():
                # A text may have comments of its own, which must not be taken for the page's marks.
                outputs[name] = path.read_text(encoding="utf-8").replace("<!--", "<! --")
            else:
                outputs[name] = None
        page = paste(readme.read_text(encoding="utf-8"), of_one_run(outputs))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    readme.write_bytes(page.encode())
    hidden = page.count("<!-- To be written anew")
    print(f'README.md shows the outputs. Comments "To be written anew" in it: {hidden}.')


if __name__ == "__main__":
    main()
