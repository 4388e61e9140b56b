"""Each script as its user runs it."""

import re
import runpy
import sys
from types import SimpleNamespace

import pytest
import transformers
from conftest import ROOT, TEXT_COUNTS, run_script, shown_texts

import common

SCRIPTS = list(TEXT_COUNTS)
DRAWING = {"task2_sampling", "task3_temperature", "task4_nucleus"}  # these take a seed


@pytest.fixture
def run_here(tmp_path, monkeypatch, capsys):
    """A function that runs a script in this process, which saves the seconds of the imports."""
    monkeypatch.setattr(common, "OUTPUTS", tmp_path)

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
        (tmp_path / f"{script}.md").write_text("before")
        capsys.readouterr()  # what making a tiny model has printed
        returncode = 0
        try:
            runpy.run_path(str(ROOT / f"{script}.py"), run_name="__main__")
        except SystemExit as end:
            returncode = end.code
        shown, error = capsys.readouterr()
        written = (tmp_path / f"{script}.md").read_bytes().decode()
        return SimpleNamespace(returncode=returncode, stdout=shown, stderr=error, written=written)

    return run


@pytest.fixture
def folder(tiny_folder):
    """A tiny model's folder. Its texts differ between settings, but for two of task 5's stories."""
    return tiny_folder(12, scale=0.2, letters=None)


def texts_of(report):
    """{(prompt, label of a setting): the text's fence}, but for those the same as another."""
    pattern = r"^\*\*(\w+), (.+)\*\*: .*\n\n(`{3,}text\n(?:.|\n)*?\n`{3,})$"
    found = re.findall(pattern, report, re.MULTILINE)
    return {(name, label): fence for name, label, fence in found}


@pytest.mark.parametrize("script", SCRIPTS)
def test_script(run_here, folder, script, monkeypatch):
    prompts = []

    class WatchedContext(common.Context):
        def __init__(self, model, prompt):
            prompts.append(tuple(prompt))
            super().__init__(model, prompt)

    monkeypatch.setattr(common, "Context", WatchedContext)  # the script, run afresh, imports it
    done = run_here(script, "--model", folder, "--max-new-tokens", "12")
    assert done.written == done.stdout
    assert shown_texts(done.stdout) == TEXT_COUNTS[script]
    first, *_, table, _legend, _end = done.stdout.split("\n\n")
    assert first.startswith("Model `tiny") and "at most 12 tokens a text" in first
    assert ("seed 0" in first) == (script in DRAWING)
    assert folder not in done.stdout
    assert table.startswith("| setting | hedgehog | json |\n")
    assert len(table.splitlines()) == 2 + TEXT_COUNTS[script] // 2  # its head, a row per setting
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    read = [tokenizer.decode(prompt) for prompt in dict.fromkeys(prompts)]
    assert read == list(common.PROMPTS.values())  # letter for letter


def test_cold_settings_show_greedys_texts(run_here, folder):
    def texts(script):
        return texts_of(run_here(script, "--model", folder, "--max-new-tokens", "40").stdout)

    greedy = texts("task1_greedy")
    tempered, beams = texts("task3_temperature"), texts("task5_beam_search")
    assert len(tempered) == TEXT_COUNTS["task3_temperature"]  # each setting has a text of its own
    for name in common.PROMPTS:
        assert tempered[name, "temperature=0.001"] == greedy[name, "greedy"]
        assert beams[name, "num_beams=1, length_penalty=1.0"] == greedy[name, "greedy"]


@pytest.mark.parametrize("script", sorted(DRAWING))
def test_draws_depend_on_the_seed_alone(run_here, folder, script, monkeypatch):
    """The other prompt, which may come first, has no influence."""

    def texts(seed):
        options = ["--model", folder, "--max-new-tokens", "40", "--seed", seed]
        return texts_of(run_here(script, *options).stdout)

    first = texts("5")
    assert list(texts("6").values()) != list(
        first.values()
    )  # not the labels, which may name the seed
    monkeypatch.setattr(common, "PROMPTS", dict(reversed(common.PROMPTS.items())))
    assert texts("5") == first


def test_the_candidates_in_bold_are_the_texts_of_the_settings(run_here, folder):
    shown = run_here("task5_beam_search", "--model", folder, "--max-new-tokens", "40").stdout
    tables = re.findall(r"^\*\*\w+, winners\*\*: .*\n\n((?:\|.*\n)+)", shown, re.MULTILINE)
    rows = [row[2:-2].split(" | ", 6) for table in tables for row in table.splitlines()[2:]]
    labels = re.findall(r"^\| (num_beams=(\d), length_penalty=(.+?)) \|", shown, re.MULTILINE)
    assert len(labels) == 5
    for label, num_beams, penalty in labels:
        column = {"0.5": 3, "1.0": 4, "2.0": 5}[penalty]
        bold = [row for row in rows if row[0] == num_beams and "**" in row[column]]
        story, answer = [f"{facts} {excerpt}" for _, facts, *_, excerpt in bold]
        assert f"\n| {label} | {story} | {answer} |\n" in shown


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(run_here, script):
    done = run_here(script, "--help")
    assert (done.returncode, done.written) == (0, "before")
    words = " ".join(done.stdout.split())
    assert "--max-new-tokens MAX_NEW_TOKENS limit per text (default: 1000)" in words
    assert f"(default: {common.MODEL_ID})" in words
    assert "(default: auto)" in words
    assert ("--seed SEED seed of the draws (default: 0)" in words) == (script in DRAWING)


BAD = ["--max-new-tokens 0", "--seed x", f"--seed {2**31}", "--seed -1", "--nonsense"]


@pytest.mark.parametrize("arguments", BAD)
def test_bad_arguments_cost_nothing(run_here, monkeypatch, arguments):
    monkeypatch.setattr(common, "read_checkpoint", lambda *_, **__: pytest.fail("it was read"))
    done = run_here("task2_sampling", *arguments.split())
    assert (done.returncode, done.stdout, done.written) == (2, "", "before")
    assert done.stderr.count("\ntask2_sampling.py: error: ") == 1, done.stderr


def test_a_bug_keeps_its_traceback(run_here, folder, monkeypatch):
    monkeypatch.setattr(common, "step", lambda *_: int("a bug, which is a ValueError too"))
    with pytest.raises(ValueError, match="a bug"):
        run_here("task1_greedy", "--model", folder)


def test_an_output_that_cannot_be_written_whole_stays_as_it_was(copy):
    resource = pytest.importorskip("resource", reason="how a full disk is made is Unix's")

    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))

    options = ["--model", str(copy / "tiny"), "--max-new-tokens", "5"]
    run = run_script(copy, "task1_greedy", *options, preexec_fn=full)
    assert run.returncode != 0
    assert run.stdout.count("```text") == 2  # printed all the same
    assert (copy / "outputs" / "task1_greedy.md").read_text() == "before"


def test_the_bar_shows_on_a_terminal_only(run_here, folder, monkeypatch):
    options = ["--model", folder, "--max-new-tokens", "200"]
    assert "steps/s" not in run_here("task2_sampling", *options).stderr
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert re.search(r"\d+/200 \[.* steps/s\]", run_here("task2_sampling", *options).stderr)


def test_scripts_never_call_generate():
    for name in ("common", *SCRIPTS):
        path = ROOT / f"{name}.py"
        assert ".generate(" not in path.read_text(encoding="utf-8")
