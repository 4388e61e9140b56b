"""Loading: what packing does to the numbers, wrong models, and a Hub on loopback."""

import json
import os
import re
import runpy
import shutil
import sys
import threading
import weakref
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
import transformers
from conftest import ROOT, SPECIAL, make_tiny, run_script
from safetensors.torch import load, save_file

import common
from common import MODEL_ID, PackedLinear
from task1_greedy import greedy
from task4_nucleus import SETTINGS, sample
from task5_beam_search import beam_search, best

ACCELERATOR = torch.accelerator.current_accelerator(check_available=True)
needs_fbgemm = pytest.mark.skipif(
    torch.backends.quantized.engine not in ("x86", "fbgemm"), reason="needs FBGEMM (AVX2)"
)


def plain_and_loaded_logits(folder):
    ids = torch.tensor([[1, 2, 3, 4, 5]] * 3)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    loaded, _ = common.load(folder)
    with torch.no_grad():
        return plain(ids).logits, loaded(ids).logits, loaded


@needs_fbgemm
@pytest.mark.parametrize("rows", [common.PACKED_ROWS, 20])  # 20 divides neither 32 nor 64
@pytest.mark.parametrize("tied", [False, True])  # the assignment's model ties its embeddings
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_packed_layers_give_the_plain_logits(tiny_folder, monkeypatch, dtype, tied, rows):
    monkeypatch.setattr(common, "PACKED_ROWS", rows)
    folder = tiny_folder(4, scale=0.2, dtype=dtype, tie_word_embeddings=tied)
    plain, packed, model = plain_and_loaded_logits(folder)
    assert packed.dtype == torch.float32
    torch.testing.assert_close(packed, plain, atol=1e-4, rtol=1e-4)
    layers = [module for module in model.modules() if isinstance(module, PackedLinear)]
    assert len(layers) == 2 * 7 + 1  # the last one is the output head
    assert not any(isinstance(module, torch.nn.Linear) for module in model.modules())


def test_without_fbgemm_layers_stay_plain(tiny_folder, monkeypatch):
    """The engines that torch supports do not matter: the operator goes by the current one."""
    engines = SimpleNamespace(engine="qnnpack", supported_engines=["qnnpack", "fbgemm", "x86"])
    monkeypatch.setattr(torch.backends, "quantized", engines)
    plain, loaded, model = plain_and_loaded_logits(tiny_folder(4, dtype=torch.bfloat16))
    assert torch.equal(loaded, plain)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())


@needs_fbgemm
def test_packing_keeps_nothing_of_the_original_layer():
    layer = torch.nn.Linear(3, 5, dtype=torch.bfloat16)
    originals = [weakref.ref(parameter) for parameter in layer.parameters()]
    packed = PackedLinear(layer)
    del layer
    assert [original() for original in originals] == [None, None]
    assert packed(torch.ones(1, 3)).shape == (1, 5)


@needs_fbgemm
def test_only_plain_layers_with_16_bit_weights_are_packed():
    """A subclass computes something else, and a layer kept in float32 would lose digits."""

    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    kept = [Doubled(3, 3, dtype=torch.bfloat16), torch.nn.Linear(3, 3)]
    model = torch.nn.Sequential(torch.nn.Linear(3, 3, dtype=torch.bfloat16), *kept)
    common.pack_linear_layers(model)
    assert isinstance(model[0], PackedLinear)
    assert list(model)[1:] == kept


@needs_fbgemm
def test_what_float16_does_to_bfloat16_weights():
    """What the docstring of pack_linear_layers says of large, small and tiny weights."""
    weights = [1.0, 65280.0, 2.0**-17 * 1.9921875, 131072.0, 2.0**-20 * 1.9921875]
    layer = torch.nn.Linear(1, 5, bias=False, dtype=torch.bfloat16)
    layer.weight.data = torch.tensor(weights).bfloat16().unsqueeze(1)  # all exactly so
    *same, large, tiny = PackedLinear(layer)(torch.ones(1, 1))[0].tolist()
    assert same == weights[:3]
    assert large == 65504
    assert 0 < abs(tiny - weights[4]) <= 2**-25


@pytest.mark.skipif(ACCELERATOR is None, reason="needs an accelerator")
def test_the_accelerator_gives_the_cpus_texts(tiny_folder, monkeypatch):
    folder = tiny_folder(4, scale=0.3, dtype=torch.bfloat16)
    prompt = [0, 1, 2]
    texts = {}
    for device in ("cpu", str(ACCELERATOR)):
        model, _ = common.load(folder, device)
        assert model.device.type == torch.device(device).type
        texts[device] = [
            greedy(model, prompt, 40),
            best(beam_search(model, prompt, 4, 40), 1.0),
            *sample(model, prompt, SETTINGS, [0, 1], 40),
        ]
    on_cpu, on_accelerator = texts.values()
    assert [text.tokens for text in on_cpu] == [text.tokens for text in on_accelerator]


def error_of(stderr, script):
    """The first line of the message at the end of stderr; two more name both ways out."""
    notes, _, message = stderr.rpartition(f"\n{script}: error: ")
    assert re.search("^Loading .+, device .*[.]$", notes, re.MULTILINE)
    assert "Traceback" not in notes
    error, without_hub, without_gpu = message.splitlines()
    stand_in = f'python {script} --model "$(python tests/offline_model.py)"'
    assert without_hub.endswith(f": pip install -r tests/requirements.txt && {stand_in}")
    assert without_gpu.endswith(f": python {script} --device cpu")
    return error


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """A function that runs a script in this process where its model can't be loaded: the error."""
    monkeypatch.setattr(common, "OUTPUTS", tmp_path / "outputs")

    def start(*arguments, script="task1_greedy.py"):
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        stdout, stderr = capsys.readouterr()
        assert (end.value.code, stdout) == (2, "")
        assert not common.OUTPUTS.exists()
        return error_of(stderr, script)

    return start


@pytest.mark.parametrize("device", ["auto", "nonsense", "meta", "xla", ""])
def test_a_wrong_device_is_named_before_anything_is_read(monkeypatch, refused, device):
    """What "auto" finds here is as an old GPU is: it is there, but it can't compute."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("meta"))
    monkeypatch.setattr(common, "read_checkpoint", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(RuntimeError) as raised:
        common.load(device=device)
    error = refused("--device", device, script="tests/survey.py")
    kind = raised.type.__name__
    assert error.startswith(f"{MODEL_ID} could not be loaded, device {device}: {kind}: ")
    assert len(error) < 400  # "xla" lists all that torch has for other devices


def lose_a_weight(folder):
    # Not by `load_file`: Windows lets nobody write a file that is mapped into memory.
    weights = load((folder / "model.safetensors").read_bytes())
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def lose_special_tokens(folder):
    """Split <|im_end|> into its letters, as a tokenizer of vocab.json and merges.txt alone does."""
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    tokenizer["added_tokens"] = []
    for token in SPECIAL:
        del tokenizer["model"]["vocab"][token]
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "error", "readings"),
    [
        (shutil.rmtree, "OSError: ", 2),  # a name that is no folder may be an id
        (lose_a_weight, "ValueError: weights are missing: ['lm_head.weight']", 1),
        (lose_special_tokens, "ValueError: the tokenizer does not read <|im_end|> as the one ", 1),
    ],
)
def test_a_wrong_folder(tmp_path, tiny_folder, refused, monkeypatch, spoil, error, readings):
    folder = tmp_path / "wrong"
    shutil.copytree(tiny_folder(), folder)
    spoil(folder)
    read = Mock(side_effect=common.read_checkpoint)
    monkeypatch.setattr(common, "read_checkpoint", read)
    message = refused("--model", str(folder))
    assert message.startswith(f"{folder} could not be loaded, device auto: {error}")
    assert read.call_count == readings


def behind_a_proxy_with_a_certificate_of_its_own():
    """The last link says what is wrong, the error itself only "check your internet connection"."""
    connection = RuntimeError("a link between")
    connection.__context__ = ValueError("certificate " + "x" * 999)
    return connection


def two_errors_that_are_each_others_cause():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


@pytest.mark.parametrize(
    ("cause", "shown"),
    [
        (two_errors_that_are_each_others_cause(), ", after ValueError: second"),
        (None, ""),  # no word of the first attempt, which looks on this machine
        (
            behind_a_proxy_with_a_certificate_of_its_own(),
            f", after ValueError: certificate {'x' * 274} …",  # 300 characters
        ),
    ],
)
def test_the_last_link_of_an_errors_chain_is_named(monkeypatch, refused, cause, shown):
    def fail(*_, **__):
        raise OSError("two\nlines") from cause

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    assert refused() == f"{MODEL_ID} could not be loaded, device auto: OSError: two lines{shown}"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server with a tiny model under the default id, which counts its requests.

    `hub.cut` is the name of a file that it sends by half. The user's proxies are not used.
    """
    for variable in list(os.environ):
        if variable.lower().endswith("_proxy"):
            monkeypatch.delenv(variable)
    make_tiny(tmp_path / "served" / MODEL_ID / "resolve" / "main", letters=None, scale=0.3)

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, *_):
            server.requests += 1

        def end_headers(self):
            self.send_header("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567")
            self.send_header("X-Error-Code", "EntryNotFound")  # read only where there is an error
            self.send_header("ETag", f'"blob-{Path(self.path).name}"')
            super().end_headers()

        def copyfile(self, source, target):
            content = source.read()
            cut = self.path.endswith(f"/{server.cut}")
            target.write(content[: len(content) // 2] if cut else content)

    handler = partial(Handler, directory=tmp_path / "served")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.requests = 0
        server.cut = None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run_default_model(copy, port):
    """Task 1 with a Hub on loopback and a cache of its own."""
    environment = {
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(copy / "cache"),
        "HF_HUB_CACHE": str(copy / "cache" / "hub"),
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "no_proxy": "127.0.0.1",  # Windows and macOS have proxies that no variable names
    }
    return run_script(copy, "task1_greedy", "--max-new-tokens", "3", environment=environment)


def check_written(done, copy):
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Model `{MODEL_ID}` on ")
    output = copy / "outputs" / "task1_greedy.md"
    assert output.read_text(encoding="utf-8") == done.stdout
    output.write_text("before")


def check_refused(done, copy):
    assert (done.returncode, done.stdout) == (2, "")
    assert error_of(done.stderr, "task1_greedy.py").startswith(f"{MODEL_ID} could not be loaded, ")
    assert (copy / "outputs" / "task1_greedy.md").read_text() == "before"


def test_default_model_cut_off_then_downloaded_then_cached_then_broken(copy, hub):
    hub.cut = "tokenizer.json"  # huggingface_hub tries six times, in 5 s
    check_refused(run_default_model(copy, hub.server_port), copy)
    hub.cut = None
    check_written(run_default_model(copy, hub.server_port), copy)
    assert hub.requests > 0
    hub.requests = 0
    check_written(run_default_model(copy, hub.server_port), copy)
    assert hub.requests == 0  # a second run needs no network
    (weights,) = (copy / "cache").rglob("model.safetensors")
    os.truncate(weights.resolve(), 1000)
    check_refused(run_default_model(copy, hub.server_port), copy)
