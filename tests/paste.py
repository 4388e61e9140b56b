"""Paste outputs/ into README.md: python tests/paste.py

The texts of each output go between `<!-- begin NAME -->` and `<!-- end NAME -->`, its table between
`<!-- begin NAME table -->` and its end; the overview is counted from the tables. What the page says
of texts stands between `<!-- observed NAME NAME -->`, with the outputs that it speaks of, and
`<!-- /observed -->`: if one of these has changed, it becomes a comment that asks for a new one.
"""

import argparse
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SURVEY = "survey.md"  # of no task, and it may be missing
OBSERVED = re.compile(r"<!-- observed (.*?) -->\n(.*?)<!-- /observed -->\n", re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
OVERVIEW_HEAD = """| task | stories | ended by EOS | repeats | valid JSONs | right |
| --- | --- | --- | --- | --- | --- |"""


def parts(name, output):
    """An output's texts, with the line that says who wrote them, and its table, else ValueError."""
    before_legend, _, _legend = output.strip().rpartition("\n\n")
    texts, _, table = before_legend.rpartition("\n\n")
    if not table.startswith("| setting | "):
        raise ValueError(f"outputs/{name} has no table as its last paragraph but one")
    return texts, table


def replaced(page, name, new):
    """The page with `new` between the marks of that name, and what stood there before."""
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
    before, _, rest = page.partition(begin)
    old, _, after = rest.partition(end)
    if page.count(begin) != 1 or page.count(end) != 1 or end not in rest:
        raise ValueError(f"README.md must have {begin.strip()} and then {end.strip()}, once each")
    return f"{before}{begin}\n{new}\n\n{end}{after}", old.strip()


def overview_row(name, table):
    """A task's row of the overview, counted from what its table says before each text."""
    rows = [row[2:-2].split(" | ") for row in table.split("\n")[2:]]
    stories = [story.partition("`")[0].strip().split(", ") for _setting, story, _answer in rows]
    answers = [answer.partition("`")[0].strip().split(", ") for _setting, _story, answer in rows]
    counts = [
        len(stories),
        sum("cut" not in story for story in stories),
        sum("repeats" in story for story in stories),
        sum("not valid" not in answer for answer in answers),
        sum("right" in answer for answer in answers),
    ]
    return f"| {name.removesuffix('.md')} | {' | '.join(map(str, counts))} |"


def with_outdated_hidden(page, changed):
    """The page, with each list of observations hidden that speaks of an output that has changed.

    changed: {name of an output: whether it has}. ValueError for wrong marks.
    """
    lists = OBSERVED.findall(page)
    if not len(lists) == page.count("<!-- observed ") == page.count("<!-- /observed -->"):
        raise ValueError("README.md has an <!-- observed … --> or an <!-- /observed --> too many")
    for names, written in lists:
        if not set(names.split()) <= set(changed):
            raise ValueError(f"README.md has a list of {names}, not all of them outputs")
        visible = COMMENT.sub("", written).strip()
        if visible and any(changed[name] for name in names.split()):
            kept = re.sub("-+!?>", "→", visible)  # nothing in it may end the comment
            hidden = f"<!-- To be written anew, the outputs being others. It was:\n\n{kept}\n-->\n"
            mark = f"<!-- observed {names} -->\n"
            page = page.replace(f"{mark}{written}<!-- /", f"{mark}{hidden}<!-- /")
    return page


def paste(page, outputs):
    """The page with the outputs in it. outputs: {name: Markdown}, None for a missing survey.

    ValueError for a page whose marks are wrong, and for an output without a table.
    """
    changed = {}
    overview = [OVERVIEW_HEAD]
    for name, output in outputs.items():
        texts, table = ("", "") if output is None else parts(name, output)
        page, old_texts = replaced(page, name, texts)
        page, old_table = replaced(page, f"{name} table", table)
        # The first paragraph, who wrote it, may change: with another version of torch, for example.
        same_texts = old_texts.partition("\n\n")[2] == texts.partition("\n\n")[2]
        changed[name] = not (same_texts and old_table == table)
        if name != SURVEY:
            overview.append(overview_row(name, table))
    page, _ = replaced(page, "overview", "\n".join(overview))
    return with_outdated_hidden(page, changed)


def main():
    """Paste, and say what is left to be done by hand. What can't be pasted is one message."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    readme = ROOT / "README.md"
    survey = ROOT / "outputs" / SURVEY
    outputs = {}
    try:
        for script in sorted(ROOT.glob("task*.py")):
            name = f"{script.stem}.md"
            outputs[name] = (ROOT / "outputs" / name).read_text(encoding="utf-8")
        outputs[SURVEY] = survey.read_text(encoding="utf-8") if survey.exists() else None
        page = paste(readme.read_text(encoding="utf-8"), outputs)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    readme.write_bytes(page.encode())
    hidden = page.count("<!-- To be written anew")
    print(f"README.md shows the outputs. Comments to be written anew, by hand: {hidden}.")


if __name__ == "__main__":
    main()
