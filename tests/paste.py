"""Paste outputs/ into README.md, so that the page is true of the model that wrote them.

    python tests/paste.py

- Each file goes between its `begin` and `end` comments. Its folded texts are shortened: one that an
  earlier file has is named, a paragraph directly followed by itself stands once, and of what is then
  still over 40 lines the first 10 stand.
- The line between `<!-- writer -->` and `<!-- /writer -->` says which model wrote the texts.
- A list between `<!-- observed MODEL -->` and `<!-- /observed -->` is written by hand. One about
  another model becomes a comment that asks for a new one.
"""

import itertools
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ASSIGNMENTS_MODEL = "Qwen2.5-0.5B-Instruct"
FOLDED = re.compile(
    r"<details><summary><b>(?P<label>.*?)</b>: (?P<length>.*?)</summary>\n\n"
    r"(?P<fence>`{3,})text\n(?P<text>.*?)\n(?P=fence)\n\n</details>",
    re.DOTALL,
)


def writer(output):
    """The model that wrote an output, as the output's first line names it."""
    return re.match(r"Model `(.+?)`", output)[1]


def writer_line(model):
    """The sentence about the model that wrote the texts."""
    if model.rpartition("/")[2] == ASSIGNMENTS_MODEL:
        return f"> The texts below were written by `{model}`, the assignment's model."
    return (
        f"> The texts below were written by `{model}`: a **stand-in**. The assignment's model, "
        f"{ASSIGNMENTS_MODEL}, was not run. [How to run it](#texts-of-your-own)."
    )


def shortened(text):
    """A text without the repetitions of a paragraph; if still over 40 lines, the first 10."""
    parts = []
    for paragraph, same in itertools.groupby(text.split("\n\n")):
        parts.append(paragraph)
        repetitions = len(list(same)) - 1
        if repetitions:
            parts.append(f"[the same paragraph again, {repetitions}×]")
    lines = "\n\n".join(parts).split("\n")
    if len(lines) > 40:
        lines = [*lines[:10], f"[{len(lines) - 10} more lines]"]
    return "\n".join(lines)


def link(name):
    """A link to an output."""
    return f"[outputs/{name}](outputs/{name})"


def with_short_texts(outputs):
    """The outputs, with their folded texts shortened. outputs: {name of the file: its Markdown}."""
    first_places = {}  # of a text: the label and the file with which it came first
    page_outputs = {}
    for name, output in outputs.items():
        for match in FOLDED.finditer(output):
            label, length, fence, text = match.group("label", "length", "fence", "text")
            first_label, first_name = first_places.setdefault(text, (label, name))
            short = shortened(text)
            if first_name != name:
                new = f"**{label}**: the same text as {first_label} of {link(first_name)}."
            elif short != text:
                new = f"<details><summary><b>{label}</b>: {length}</summary>\n\n"
                new += (
                    f"{fence}text\n{short}\n{fence}\n\nThe whole text: {link(name)}\n\n</details>"
                )
            else:
                continue
            output = output.replace(match[0], new)
        page_outputs[name] = output
    return page_outputs


def between(page, begin, end, new):
    """The page with `new` between two marks. ValueError unless each stands in it once."""
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"README.md must have {begin} and {end} once each")
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return before + begin + new + end + after


def with_true_list(page, begin, model):
    """The page, with the list that stands right before `begin` emptied if about another model.

    ValueError where no such list stands there.
    """
    end = page.index("<!-- /observed -->\n\n" + begin)
    start = page.rindex("<!-- observed ", 0, end)
    if page.startswith(f"<!-- observed {model} -->\n", start):
        return page
    new = f"<!-- observed {model} -->\n"
    new += "<!-- To be written: **What these texts show**, at most three bullets. -->\n"
    return page[:start] + new + page[end:]


def paste(page, outputs):
    """The page with the outputs in it. outputs: {name of the file: its Markdown}.

    ValueError for a page that lacks a mark, and for outputs of several models.
    """
    models = {writer(output) for output in outputs.values()}
    if len(models) > 1:
        raise ValueError(f"the outputs are of several models: {sorted(models)}")
    (model,) = models
    page = between(page, "<!-- writer -->\n", "<!-- /writer -->\n", writer_line(model) + "\n")
    for name, output in with_short_texts(outputs).items():
        begin = f"<!-- begin outputs/{name} -->\n\n"
        page = between(page, begin, f"<!-- end outputs/{name} -->\n", output)
        page = with_true_list(page, begin, model)
    return page


def main():
    """Paste, and say what is left to be done by hand."""
    readme = ROOT / "README.md"
    files = sorted((ROOT / "outputs").glob("*.md"))
    outputs = {path.name: path.read_text(encoding="utf-8") for path in files}
    page = paste(readme.read_text(encoding="utf-8"), outputs)
    readme.write_bytes(page.encode())
    print(f"{page.count('<!-- To be written')} lists of observations have to be written. Read the")
    print("others again: they may be about an earlier run of the same model.")


if __name__ == "__main__":
    main()
