"""Paste outputs/ into README.md, so that the page is true of the model that wrote them.

    python tests/paste.py

- Each file goes between its `begin` and `end` comments. A folded text is shortened: a paragraph that
  repeats itself stands once, and of what is still over 40 lines only the first 10 stand.
- The line between `<!-- writer -->` and `<!-- /writer -->` says which model wrote the texts.
- A list between `<!-- observed MODEL -->` and `<!-- /observed -->` is written by hand. One about
  another model becomes a comment that asks for a new one.
"""

import itertools
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ASSIGNMENTS_MODEL = "Qwen2.5-0.5B-Instruct"


def writer(output):
    """The model that wrote an output, as the output's first line names it."""
    return re.match(r"Model `(.+?)`", output)[1]


def writer_line(models):
    """The sentence about the models that wrote the texts."""
    names = " and ".join(f"`{model}`" for model in models)
    if all(model.rpartition("/")[2] == ASSIGNMENTS_MODEL for model in models):
        return f"> The texts below were written by {names}, the assignment's model."
    return (
        f"> The texts below were written by {names}: a **stand-in**. The assignment's model, "
        f"{ASSIGNMENTS_MODEL}, was not run. "
        "[What to do with the Hub at hand](#texts-of-your-own)."
    )


def shortened(output, name):
    """The output with its long texts made short, and below each of those where it stands whole."""

    def shorten(folded):
        summary, fence, text = folded.groups()
        parts = []
        for paragraph, same in itertools.groupby(text.split("\n\n")):
            parts.append(paragraph)
            repetitions = len(list(same)) - 1
            if repetitions:
                parts.append(f"[the same paragraph {repetitions} more times]")
        lines = "\n\n".join(parts).split("\n")
        if len(lines) > 40:
            lines = [*lines[:10], f"[{len(lines) - 10} more lines]"]
        short = "\n".join(lines)
        if short == text:
            return folded[0]
        where = f"The whole text is in [outputs/{name}](outputs/{name})."
        return f"{summary}{fence}text\n{short}\n{fence}\n\n{where}\n\n</details>"

    folded = r"(<details>[^\n]*\n\n)(`{3,})text\n(.*?)\n\2\n\n</details>"
    return re.sub(folded, shorten, output, flags=re.DOTALL)


def between(page, begin, end, new):
    """The page with `new` between two marks. ValueError unless each stands in it once."""
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"README.md must have {begin} and {end} once each")
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return before + begin + new + end + after


def paste(page, outputs):
    """The page with the outputs in it. outputs: {name of the file: its Markdown}."""
    models = list(dict.fromkeys(writer(output) for output in outputs.values()))
    page = between(page, "<!-- writer -->\n", "<!-- /writer -->\n", writer_line(models) + "\n")
    for name, output in outputs.items():
        begin, end = f"<!-- begin outputs/{name} -->\n\n", f"<!-- end outputs/{name} -->\n"
        page = between(page, begin, end, shortened(output, name))
        before, _, rest = page.partition(begin)
        # The list above these texts: the last one before them.
        before, mark, observed = before.rpartition("<!-- observed ")
        about, _, items = observed.partition(" -->\n")
        items, _, between_them = items.partition("<!-- /observed -->\n")
        if about != writer(output):
            about = writer(output)
            items = "<!-- To be written: **What these texts show**, at most three bullets. -->\n"
        observed = f"{about} -->\n{items}<!-- /observed -->\n{between_them}"
        page = before + mark + observed + begin + rest
    return page


def main():
    """Paste, and name the lists that are to be written."""
    readme = ROOT / "README.md"
    files = sorted((ROOT / "outputs").glob("*.md"))
    outputs = {path.name: path.read_text(encoding="utf-8") for path in files}
    page = paste(readme.read_text(encoding="utf-8"), outputs)
    readme.write_bytes(page.encode())
    print(f"{page.count('<!-- To be written')} lists in README.md are to be written.")


if __name__ == "__main__":
    main()
