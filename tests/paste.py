"""Paste outputs/ into README.md: python tests/paste.py

Each output goes between its marks, `<!-- begin NAME -->` and `<!-- end NAME -->`; the tasks' tables
become the one at the top. What the page says of texts stands between `<!-- observed NAME NAME -->`,
with the outputs that it speaks of, and `<!-- /observed -->`: if one of these says something else
now, it becomes a comment that asks for a new one.
"""

import argparse
import re
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SURVEY = "survey.md"  # of no task; it may be missing
TEXT = re.compile(r"^(`{3,})text\n(.*?)\n\1$", re.DOTALL | re.MULTILINE)
OBSERVED = re.compile(r"<!-- observed (.*?) -->\n(.*?)<!-- /observed -->\n", re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def shortened(name, match):
    """Of a text of over 30 lines the first 25, and a link to the output; a shorter one whole."""
    fence, text = match.groups()
    lines = text.split("\n")
    if len(lines) <= 30:
        return match[0]
    link = f"{len(lines) - 25} more lines: [outputs/{name}](outputs/{name})"
    return "\n".join([f"{fence}text", *lines[:25], fence, "", link])


def replaced(page, name, new):
    """The page with `new` between the marks of that name, and what stood there before."""
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
    before, _, rest = page.partition(begin)
    old, _, after = rest.partition(end)
    if page.count(begin) != 1 or rest.count(end) != 1:
        raise ValueError(f"README.md must have {begin.strip()} and then {end.strip()}, once each")
    return f"{before}{begin}\n{new}\n\n{end}{after}", old.strip()


def body(output):
    """An output's paragraphs, but for the first and the last: who wrote it, what its words mean."""
    return output.split("\n\n")[1:-1]


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
    """The page with the outputs in it. outputs: {name: Markdown}, "" for a missing survey.

    ValueError for a page whose marks are wrong.
    """
    changed = {}
    tables = []
    for name, output in outputs.items():
        new = TEXT.sub(partial(shortened, name), output.strip())
        page, old = replaced(page, name, new)
        changed[name] = body(old) != body(new)
        if name != SURVEY:
            tables.append(body(new)[-1].split("\n"))
    rows = [row for table in tables for row in table[2:]]
    page, _ = replaced(page, "table", "\n".join(tables[0][:2] + rows))
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
        outputs[SURVEY] = survey.read_text(encoding="utf-8") if survey.exists() else ""
        page = paste(readme.read_text(encoding="utf-8"), outputs)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    readme.write_bytes(page.encode())
    hidden = page.count("<!-- To be written anew")
    print(f"README.md shows the outputs. Lists to be written anew, by hand: {hidden}.")


if __name__ == "__main__":
    main()
