"""Each script as its user runs it."""

import os
import re
import runpy
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, TEXTS, run_script, script_process, shown_texts

import common
import task1_greedy
import task2_sampling
import task3_temperature
import task4_nucleus
import task5_beam_search

SCRIPTS = sorted(path.stem for path in ROOT.glob("task*.py"))
DRAWING = {"task2_sampling", "task3_temperature", "task4_nucleus"}  # these take a seed


@pytest.fixture
def run_here(tmp_path, monkeypatch, capsys):
    """A function that runs a script in this process, which saves the seconds of the imports."""
    monkeypatch.setattr(common, "OUTPUTS", tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

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
        written = (tmp_path / f"{script}.md").read_text(encoding="utf-8")
        return SimpleNamespace(returncode=returncode, stdout=shown, stderr=error, written=written)

    return run


def output(copy, script):
    return copy / "outputs" / f"{script}.md"


@pytest.mark.parametrize("script", SCRIPTS)
def test_script(copy, script):
    folder = str(copy / "tiny")
    done = run_script(copy, script, "--model", folder, "--max-new-tokens", "12")
    assert done.returncode == 0, done.stderr
    assert output(copy, script).read_bytes() == done.stdout.encode()
    assert shown_texts(done.stdout) == TEXTS[script]
    first, _, _ = done.stdout.partition("\n")
    assert first.startswith("Model `tiny` on ") and "at most 12 tokens a text" in first
    assert ("seed 0" in first) == (script in DRAWING)
    assert done.stdout.rpartition("### ")[2].startswith("At a glance\n")
    assert folder not in done.stdout
    assert list(output(copy, script).parent.glob(".*")) == []


TEMPERATURES = (0.001, 0.1, 0.5, 1.0, 10.0)
NUCLEI = ((1.0, 0.9), (1.0, 0.15), (0.5, 0.9), (0.5, 0.15))
BEAMS = ((1, 1.0), (4, 1.0), (4, 0.5), (4, 2.0), (8, 1.0))


def expected_texts(script, model, prompt, generator, limit):
    """{label of a setting: its text}, by the task's function. A label is made of the setting."""
    if script == "task1_greedy":
        return {"greedy": task1_greedy.greedy(model, prompt, limit)}
    if script == "task2_sampling":
        texts = task2_sampling.sample(model, prompt, 3, generator, limit)
        return {f"sampling, text {i + 1}": texts[i] for i in range(3)}
    if script == "task3_temperature":
        texts = task3_temperature.sample(model, prompt, TEMPERATURES, generator, limit)
        return {f"temperature={text.setting}": text for text in texts}
    if script == "task4_nucleus":
        texts = task4_nucleus.sample(model, prompt, NUCLEI, generator, limit)
        return {"temperature={:g}, top_p={}".format(*text.setting): text for text in texts}
    winners = {}
    for num_beams, length_penalty in BEAMS:
        found = task5_beam_search.beam_search(model, prompt, num_beams, limit)
        label = f"num_beams={num_beams}, length_penalty={length_penalty}"
        winners[label] = task5_beam_search.best(found, length_penalty)
    return winners


def expected_section(texts, tokenizer):
    """What a report says of the texts of a prompt."""
    pieces = []
    labels = {}
    for label, text in texts.items():
        first = labels.setdefault(tuple(text.tokens), label)
        same = f"**{label}**: the same text as {first}."
        pieces.append(common.text_section(label, text, tokenizer) if first == label else same)
    return "".join(piece + "\n\n" for piece in pieces)


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_label_shows_the_text_of_its_own_setting(run_here, tiny_folder, script):
    """And task 5 shows the candidates of each search."""
    folder = tiny_folder(12, scale=0.15, letters=None)
    model, tokenizer = common.load(folder)
    options = ["--seed", "5"] if script in DRAWING else []
    shown = run_here(script, "--model", folder, "--max-new-tokens", "40", *options).stdout
    generator = torch.Generator().manual_seed(5)
    for name, input_text in common.PROMPTS.items():
        prompt = tokenizer(input_text).input_ids
        texts = expected_texts(script, model, prompt, generator, 40)
        assert len(texts) * 2 == TEXTS[script]
        expected = expected_section(texts, tokenizer)
        if script == "task5_beam_search":
            for num_beams in (1, 4, 8):
                found = task5_beam_search.beam_search(model, prompt, num_beams, 40)
                tree = task5_beam_search.candidates_tree(num_beams, found, tokenizer)
                expected += f"{tree}\n\n"
        section = shown.partition(f"### Prompt `{name}`\n\n")[2].partition("### ")[0]
        assert section == expected
        if script == "task5_beam_search":  # three settings that differ by their penalty alone
            assert len({tuple(text.tokens) for text in list(texts.values())[1:4]}) == 3


def test_one_step_is_shown_under_each_setting(run_here, tiny_folder):
    folder = tiny_folder(3, scale=0.3, letters=None)
    model, tokenizer = common.load(folder)
    logits = common.example_step(model, tokenizer)
    by_temperature = {f"T={t:g}": (logits / t).softmax(-1) for t in TEMPERATURES}
    by_nucleus = {}
    for temperature, top_p in NUCLEI:
        probs = task4_nucleus.nucleus((logits / temperature).softmax(-1)[None], top_p)
        by_nucleus[f"temperature={temperature:g}, top_p={top_p}"] = probs[0]
    for script, expected in (("task3_temperature", by_temperature), ("task4_nucleus", by_nucleus)):
        shown = run_here(script, "--model", folder, "--max-new-tokens", "1").stdout
        table = common.step_table(logits, expected, tokenizer)
        assert f"\n\n{table}\n\n### Prompt" in shown


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(run_here, script):
    done = run_here(script, "--help")
    assert (done.returncode, done.written) == (0, "before")
    words = " ".join(done.stdout.split())
    assert "--max-new-tokens MAX_NEW_TOKENS limit of a text, in tokens (default: 1000)" in words
    assert f"(default: {common.MODEL_ID})" in words
    assert "(default: auto)" in words
    assert ("--seed SEED seed of the draws (default: 0)" in words) == (script in DRAWING)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--max-new-tokens", "0"],
        ["--seed", "x"],
        ["--seed", str(2**32)],
        ["--seed", "-1"],
        ["--nonsense"],
    ],
)
def test_bad_arguments_cost_nothing(run_here, monkeypatch, arguments):
    monkeypatch.setattr(common, "read_checkpoint", lambda *_, **__: pytest.fail("it was read"))
    done = run_here("task2_sampling", *arguments)
    assert (done.returncode, done.stdout, done.written) == (2, "", "before")
    assert done.stderr.count("\ntask2_sampling.py: error: ") == 1, done.stderr


def test_an_interrupted_run_leaves_the_output_as_it_was(run_here, tiny_folder, monkeypatch, capsys):
    """And what was ready has been printed."""

    def interrupted(_context, texts):
        raise KeyboardInterrupt

    monkeypatch.setattr(common, "step", interrupted)  # which the script, run afresh, imports
    with pytest.raises(KeyboardInterrupt):
        run_here("task2_sampling", "--model", tiny_folder(letters=None))
    assert (common.OUTPUTS / "task2_sampling.md").read_text() == "before"
    assert capsys.readouterr().out.startswith("Model `")


def test_an_output_that_cannot_be_written_whole_stays_as_it_was(copy):
    resource = pytest.importorskip("resource", reason="how a full disk is made is Unix's")

    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))

    options = ["--model", "tiny", "--max-new-tokens", "5"]
    run = script_process(copy, "task1_greedy", *options, preexec_fn=full, text=True)
    shown, _ = run.communicate()
    assert run.returncode != 0
    assert shown.count("```text") == 2  # printed all the same
    assert output(copy, "task1_greedy").read_text() == "before"


def test_a_bug_keeps_its_traceback(run_here, tiny_folder, monkeypatch):
    monkeypatch.setattr(common, "step", lambda *_: int("a bug, which is a ValueError too"))
    with pytest.raises(ValueError, match="a bug"):
        run_here("task1_greedy", "--model", tiny_folder(letters=None))


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "cp1251"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=["cp1251", "ascii"],
)
def test_terminals_that_lack_most_characters(copy, tmp_path_factory, environment):
    """Run from another folder, too: the outputs still go beside the scripts."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    options = ["--model", str(copy / "tiny"), "--max-new-tokens", "40"]
    process = script_process(
        copy, "task3_temperature", *options, environment=environment, cwd=elsewhere
    )
    shown, error = process.communicate()
    assert process.returncode == 0, error
    shown.decode(environment.get("PYTHONIOENCODING", "ascii"))
    written = output(copy, "task3_temperature").read_bytes()
    assert not written.decode("utf-8").isascii()
    assert list(elsewhere.iterdir()) == []


def test_the_bar_shows_on_a_terminal_only(run_here, tiny_folder, monkeypatch):
    options = ["--model", tiny_folder(letters=None, scale=0.3), "--max-new-tokens", "200"]
    assert "steps/s" not in run_here("task2_sampling", *options).stderr
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert re.search(r"\d+/200 \[.* steps/s\]", run_here("task2_sampling", *options).stderr)


def test_the_output_is_named_after_the_script_however_it_is_started(copy):
    """`import task1_greedy; task1_greedy.main()` has no script in sys.argv."""
    arguments = ["--model", "tiny", "--device", "cpu", "--max-new-tokens", "5"]
    program = f"import sys, task1_greedy; sys.argv[1:] = {arguments}; task1_greedy.main()"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    assert output(copy, "task1_greedy").read_text(encoding="utf-8") == done.stdout
    assert not output(copy, "-c").exists()


def test_scripts_never_call_generate():
    for path in ROOT.glob("*.py"):
        assert ".generate(" not in path.read_text(encoding="utf-8")
