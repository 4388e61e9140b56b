"""Each script as its user runs it: a subprocess in a copy of the repository."""

import argparse
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, make_tiny

import common

SCRIPTS = sorted(path.stem for path in ROOT.glob("task*.py"))
TEXTS = {"task1_greedy": 2, "task2_sampling": 6, "task3_temperature": 10}
TEXTS |= {"task4_nucleus": 8, "task5_beam_search": 10}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the scripts, with a tiny model in tests/tiny."""
    folder = tmp_path_factory.mktemp("copy")
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    make_tiny(folder / "tests" / "tiny", scale=0.3)
    return folder


def run(copy, script, *arguments):
    command = [sys.executable, f"{script}.py", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, timeout=120, check=False
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_script(copy, script):
    done = run(copy, script, "--model", str(copy / "tests" / "tiny"), "--max-new-tokens", "12")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (copy / "outputs" / f"{script}.md").read_bytes() == done.stdout
    shown = done.stdout.decode()
    assert shown.count("\n```text\n") == TEXTS[script]
    assert (
        f"{script}.py --model tests/tiny --max-new-tokens 12`: model `tests/tiny`, float32" in shown
    )
    assert str(copy) not in shown
    assert list((copy / "outputs").glob(".*")) == []


def test_more_samples_count_but_are_not_printed(copy):
    options = ["--model", "tests/tiny", "--max-new-tokens", "3", "--samples", "7"]
    shown = run(copy, "task3_temperature", *options).stdout.decode()
    assert shown.count("\n```text\n") == 10
    assert len(re.findall(r"^\| temperature=\S+ \| 7 \|", shown, re.MULTILINE)) == 10


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(copy, script):
    done = run(copy, script, "--help")
    assert done.returncode == 0
    assert b"--max-new-tokens" in done.stdout
    sampled = script[4] in "234"
    assert (b"--seed" in done.stdout) == (b"--samples" in done.stdout) == sampled


@pytest.mark.parametrize(
    "arguments",
    [
        ["--samples", "0"],
        ["--max-new-tokens", "0"],
        ["--seed", "x"],
        ["--seed", "9" * 30],
        ["--model", "no/such/folder/anywhere"],
        ["--model", "outputs"],
        ["--nonsense"],
    ],
)
def test_bad_arguments_cost_nothing(copy, arguments):
    outputs = copy / "outputs"
    outputs.mkdir(exist_ok=True)
    (outputs / "task2_sampling.md").write_text("before")
    done = run(copy, "task2_sampling", "--model", "tests/tiny", *arguments)
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1, done.stderr.decode()
    assert (outputs / "task2_sampling.md").read_text() == "before"


def test_scripts_never_call_generate():
    for path in ROOT.glob("*.py"):
        assert ".generate(" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"contractor": "Mike", "sum": 100.50, "currency": "RUB"}', ""),
        ('{"sum": 100.5, "currency": "RUB", "contractor": "Mike"}', ""),
        ('{"contractor": "Mike", "sum": "100.5", "currency": "RUB"}', '`{"sum": "100.5"}`'),
        ('```json\n{"contractor": "Mike"}\n```', "in a code fence"),
        ('{"contractor": "Mike"}', "other keys"),
        ("[1]", "other keys"),
        ("[" * 100_000, "no JSON"),
        ("Sure! {", "no JSON"),
    ],
)
def test_faults(answer, expected):
    assert common.fault(answer) == expected


def test_figures():
    texts = [
        common.Text([1, 2, 3, 4, 1, 2, 3, 4], [-1.0] * 8, [1, 2, 3, 9], "EOS"),
        common.Text([1, 2], [-4.0, -4.0], [], "limit"),
    ]
    row = common.figures("hedgehog", texts)
    assert (row["texts"], row["different"], row["mean tokens"]) == (2, 2, "5")
    assert (row["ended by EOS"], row["mean log-prob per token"]) == ("50%", "-1.60")
    assert row["repeated 4-grams"] == "20.0%"
    assert (row["kept, median"], row["kept, largest"]) == (3, 9)

    right, answers = '{"contractor": "Mike", "sum": 100.5, "currency": "RUB"}', ["{}", "no", "no"]
    texts = [common.Text([i], [-1.0], text=a) for i, a in enumerate([right, *answers])]
    row = common.figures("json", texts)
    assert (row["JSON that parses"], row["JSON that is right"]) == (2, 1)
    assert row["commonest fault"] == "no JSON (2)"
    assert common.figures("json", texts[:1])["commonest fault"] == "none"


def test_drawn_gives_each_setting_its_texts():
    args = argparse.Namespace(samples=7, generator=None, max_new_tokens=1)
    settings = {str(setting): setting for setting in range(5)}
    found = common.drawn(args, lambda _p, rows, *_: [common.Text([s]) for s in rows], "a", settings)
    assert found == {name: [common.Text([s])] * 7 for name, s in settings.items()}


def test_no_absolute_path_is_reported(copy):
    options = [f"--model={copy / 'tests' / 'tiny'}", "--max-new-tokens", "1"]
    shown = run(copy, "task1_greedy", *options).stdout.decode()
    assert "`python task1_greedy.py --model=tests/tiny --max-new-tokens 1`" in shown
    assert str(copy) not in shown


def test_wild_text_stays_in_its_fence():
    wild = "a\x1b[2Jb\r\x00\u202ec\ud800 ```` \u2028end"
    text = common.Text([1] * 100, [-1.0] * 100, text=wild, ending="EOS")
    shown = common.section("hedgehog", {"label": [text]})
    assert shown.count("`````") == 2
    body = shown.split("`````text\n")[1].split("\n`````")[0]
    assert body == r"a\x1b[2Jb\r\x00\u202ec\ud800 ```` \u2028end"
