"""Interrupts, terminals, full disks, wild texts and wild logits."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, make_tiny
from hypothesis import given, settings
from hypothesis import strategies as st

import common
import task3_temperature
import task4_nucleus
import task5_beam_search
from common import step

resource = pytest.importorskip("resource", reason="how a full disk is made is Unix's")


@pytest.fixture
def copy(tmp_path):
    """A copy of the scripts with a tiny model, and what an earlier run has written."""
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    make_tiny(tmp_path / "tiny", scale=0.3)
    (tmp_path / "outputs").mkdir()
    for path in ROOT.glob("task*.py"):
        (tmp_path / "outputs" / f"{path.stem}.md").write_text("before")
    return tmp_path


def start(copy, script, *arguments, environment=(), **popen):
    command = [sys.executable, copy / f"{script}.py", "--model", copy / "tiny", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, **({"cwd": copy} | pipes | popen))


def untouched(copy, script):
    outputs = copy / "outputs"
    return (outputs / f"{script}.md").read_text() == "before" and not list(outputs.glob(".*"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_interrupts(copy, number, code):
    """While torch is being imported, and in the middle of a text."""
    early = start(copy, "task1_greedy")
    late = start(copy, "task2_sampling", "--max-new-tokens", "1000000")
    while early.poll() is None and "libtorch" not in Path(f"/proc/{early.pid}/maps").read_text():
        time.sleep(0.01)
    early.send_signal(number)
    assert early.communicate(timeout=60) == (b"", b"")
    assert late.stdout.readline().startswith(b"Written by")
    time.sleep(0.5)
    late.send_signal(number)
    assert late.communicate(timeout=60)[1] == b""
    assert (early.returncode, late.returncode) == (code, code)
    assert untouched(copy, "task1_greedy") and untouched(copy, "task2_sampling")


def test_a_full_disk_and_outputs_that_cannot_be_written(copy):
    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))

    disk = start(copy, "task1_greedy", "--max-new-tokens", "5", preexec_fn=full)
    shown, error = disk.communicate(timeout=60)
    assert disk.returncode == 2
    assert shown.count(b"```text") == 2
    assert error.count(b"\n") == 1, error.decode()
    assert untouched(copy, "task1_greedy")

    shutil.rmtree(copy / "outputs")
    (copy / "outputs").write_text("a file, not a folder")
    barred = start(copy, "task1_greedy", "--max-new-tokens", "5")
    shown, error = barred.communicate(timeout=60)
    assert barred.returncode == 2
    assert shown.count(b"```text") == 2
    assert error.count(b"\n") == 1, error.decode()


def test_two_runs_at_once_do_not_mix(copy):
    runs = [
        start(copy, "task2_sampling", "--max-new-tokens", "20", "--seed", seed) for seed in "12"
    ]
    texts = [run.communicate(timeout=60)[0] for run in runs]
    assert texts[0] != texts[1]
    assert (copy / "outputs" / "task2_sampling.md").read_bytes() in texts
    assert str(os.getpid()) in common.TEMPORARY.name


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
    options = {"environment": environment, "cwd": elsewhere}
    run = start(copy, "task3_temperature", "--max-new-tokens", "40", **options)
    shown, error = run.communicate(timeout=60)
    assert (run.returncode, error) == (0, b"")
    shown.decode(environment.get("PYTHONIOENCODING", "ascii"))
    written = (copy / "outputs" / "task3_temperature.md").read_bytes()
    assert not written.decode("utf-8").isascii()
    assert b"\r" not in written
    assert list(elsewhere.iterdir()) == []


def test_head_ends_the_script_quietly(copy):
    run = start(copy, "task2_sampling", "--max-new-tokens", "5")
    assert run.stdout.readline().startswith(b"Written by")
    run.stdout.close()
    assert run.stderr.read() == b""
    assert run.wait(timeout=60) == 128 + signal.SIGPIPE
    assert untouched(copy, "task2_sampling")


def test_the_bar_shows_on_a_terminal_only(tiny, monkeypatch, capsys):
    tiny()
    capsys.readouterr()  # the bar of the model's saving
    task5_beam_search.search("abc", 2, 5)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    task5_beam_search.search("abc", 2, 5)
    assert "tokens/s" in capsys.readouterr().err


@settings(deadline=None, max_examples=300)
@given(st.text() | st.text("`~<|>\n\r\x1b\u202e\u2066\x00\x9b\ud800"))
def test_wild_texts(wild):
    seen = common.visible(wild)
    assert all(c.isprintable() or c in "\n\t" for c in seen)
    seen.encode()
    text = common.Text([1], [-1.0], text=wild, ending="EOS")
    fence, *inside, end = common.section("json", {"x": [text]}).split("\n\n", 3)[3].split("\n")
    assert set(end) == {"`"} and fence == end + "text"
    assert "\n".join(inside) == seen
    assert end not in seen
    cell = common.code(wild)
    ticks = cell[: len(cell) - len(cell.lstrip("`"))]
    assert cell.endswith(ticks) and ticks not in cell[len(ticks) : -len(ticks)]
    assert not set(cell.replace("\\|", "")) & set("|\n\t")


@st.composite
def wild_logits(draw):
    """Float32 (4, 11): random, one-hot, uniform, very peaked, mostly -inf."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    scale = draw(st.sampled_from([0, 1e-30, 1, 100, 1e6, 1e30, 3e37]))
    logits = torch.randn(4, 11, generator=generator) * scale
    share = draw(st.sampled_from([0, 0.5, 0.9, 1]))
    impossible = torch.rand(4, 11, generator=generator) < share
    impossible[torch.arange(4), torch.randint(11, (4,), generator=generator)] = False
    return logits.masked_fill(impossible, -torch.inf)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(wild_logits(), min_size=3, max_size=3),
    st.sampled_from([1e-44, 1e-6, 0.5, 1.0, 10.0, 3e38]),
    st.sampled_from([1e-9, 0.15, 0.9, 1.0]),
)
def test_wild_logits(tiny, logits, temperature, top_p):
    """No NaN, no token of probability 0, no error; whatever the model says."""
    tiny()

    def wild_step(decoding):
        step(decoding)  # keeps the cache true
        answer = logits[len(decoding.texts[-1].tokens)][: len(decoding.open)]
        decoding.logprobs = answer.log_softmax(-1)
        return answer

    generator = torch.Generator().manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        for task in (task3_temperature, task4_nucleus, task5_beam_search):
            patch.setattr(task, "step", wild_step)
        texts = task3_temperature.sample("abc", [temperature] * 4, generator, 3)
        texts += task4_nucleus.sample("abc", [(temperature, top_p)] * 4, generator, 3)
        for num_beams in (1, 2, 4):
            texts += task5_beam_search.search("abc", num_beams, 3)
    assert all(map(math.isfinite, (text.score for text in texts)))
    assert all(text.ending for text in texts)
