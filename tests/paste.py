"""Paste outputs/ into README.md: python tests/paste.py

Each output goes between its marks, `<!-- begin NAME -->` and `<!-- end NAME -->`; of a text of over
30 lines the first 25. The rows of the tasks' tables make the table at the top. What is said of the
texts stands between `<!-- observed NAME NAME -->` and `<!-- /observed -->`, with the outputs that
it speaks of: when one of them says something else, it becomes a comment that asks for a new one.
"""

import argparse
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SURVEY = "survey.md"  # of no task; it may be missing
TEXT = re.compile(r"^(`{3,})text\n(.*?)\n\1$", re.DOTALL | re.MULTILINE)
OBSERVED = re.compile(r"<!-- observed (.*?) -->\n(.*?)<!-- /observed -->\n", re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def shortened(name, output):
    """The output; of a text of over 30 lines the first 25, and a link to the rest."""

    def shorten(match):
        fence, text = match.groups()
        lines = text.split("\n")
        if len(lines) <= 30:
            return match[0]
        rest = f"{len(lines) - 25} more lines: [outputs/{name}](outputs/{name})"
        return "\n".join([f"{fence}text", *lines[:25], fence, "", rest])

    return TEXT.sub(shorten, output)


def body(output):
    """What an output says, in pieces: not its first line, nor the words below its last table."""
    pieces = output.strip().split("\n\n")[1:]
    while pieces and not pieces[-1].startswith("|"):
        pieces.pop()
    return pieces


def replaced(page, name, new):
    """The page with something new between the marks of that name, and the old."""
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"README.md must have {begin.strip()} and then {end.strip()}, once each")
    before, _, rest = page.partition(begin)
    old, _, after = rest.partition(end)
    return before + begin + new + end + after, old


def with_true_lists(page, changed):
    """The page, with each list hidden that speaks of an output that has changed.

    changed: {name of an output: whether it has}. ValueError for a list with wrong marks.
    """

    def true_or_hidden(match):
        names, written = match.groups()
        for name in names.split():
            if name not in changed:
                raise ValueError(f"README.md has a list of {name}, which is no output")
        seen = COMMENT.sub("", written).strip()
        if not seen or not any(changed[name] for name in names.split()):
            return match[0]
        kept = re.sub("-+!?>", "→", seen)  # nothing in it may end the comment
        comment = f"<!-- To be written anew, the outputs being others. It was:\n\n{kept}\n-->"
        return f"<!-- observed {names} -->\n{comment}\n<!-- /observed -->\n"

    lists = len(OBSERVED.findall(page))
    if not lists == page.count("<!-- observed ") == page.count("<!-- /observed -->"):
        raise ValueError("README.md has an <!-- observed … --> or an <!-- /observed --> too many")
    return OBSERVED.sub(true_or_hidden, page)


def paste(page, outputs):
    """The page with the outputs in it. outputs: {name: Markdown}, "" for a missing survey.

    ValueError for a page whose marks are wrong.
    """
    changed = {}
    rows = []  # of the table at the top
    for name, output in outputs.items():
        new = shortened(name, output)
        page, old = replaced(page, name, f"\n{new.strip()}\n\n")
        changed[name] = body(old) != body(new)
        if name != SURVEY:
            head, line, *own_rows = body(output)[-1].split("\n")
            rows += own_rows
    table = "\n".join([head, line, *rows])
    page, _ = replaced(page, "table", f"\n{table}\n\n")
    return with_true_lists(page, changed)


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
    print(f"README.md is up to date. Lists to be written anew, by hand: {hidden}.")


if __name__ == "__main__":
    main()
