"""Paste outputs/ into README.md, and name the lists there that speak of another model.

    python tests/paste.py

Each file goes between its `begin` and `end` comments. The list above it, between
`<!-- observed MODEL -->` and `<!-- /observed -->`, is written by hand.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def paste(page, name, output):
    """The page with `output` between the comments of outputs/`name`. ValueError without them."""
    begin = f"<!-- begin outputs/{name} -->\n\n"
    end = f"<!-- end outputs/{name} -->\n"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"README.md must have one pair of comments for outputs/{name}")
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return before + begin + output + end + after


def models(page, name):
    """Two models: that of the observed list above outputs/`name`, and that of the pasted texts."""
    before, _, texts = page.partition(f"<!-- begin outputs/{name} -->")
    _, _, observed = before.rpartition("<!-- observed ")
    return observed.partition(" -->")[0], re.search(r"^Model `(.+?)`", texts, re.MULTILINE)[1]


def main():
    readme = ROOT / "README.md"
    page = readme.read_text(encoding="utf-8")
    files = sorted((ROOT / "outputs").glob("*.md"))
    for path in files:
        page = paste(page, path.name, path.read_text(encoding="utf-8"))
    readme.write_bytes(page.encode())
    for path in files:
        observed, wrote = models(page, path.name)
        if observed != wrote:
            print(f"{path.name}: the list above speaks of {observed}, the texts are by {wrote}")


if __name__ == "__main__":
    main()
