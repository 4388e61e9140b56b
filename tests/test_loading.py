"""Loading: what packing does to the numbers, wrong models, and a Hub on loopback."""

import hashlib
import json
import os
import shutil
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import transformers
from conftest import ROOT, make_tiny, run_script
from safetensors.torch import load_file, save_file

import common
from common import MODEL_ID, PackedLinear
from task1_greedy import greedy
from task4_nucleus import SETTINGS, sample
from task5_beam_search import beam_search, best

ACCELERATOR = torch.accelerator.current_accelerator(check_available=True)
needs_fbgemm = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="needs FBGEMM (AVX2)"
)


def plain_and_loaded_logits(folder):
    ids = torch.tensor([[1, 2, 3, 4, 5]] * 3)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    loaded, _ = common.load(folder)
    with torch.no_grad():
        return plain(ids).logits, loaded(ids).logits, loaded


@needs_fbgemm
@pytest.mark.parametrize("tied", [False, True])  # the assignment's model ties its embeddings
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_packed_layers_give_the_plain_logits(tiny_folder, dtype, tied):
    folder = tiny_folder(4, scale=0.2, dtype=dtype, tie_word_embeddings=tied)
    plain, packed, model = plain_and_loaded_logits(folder)
    assert packed.dtype == torch.float32
    torch.testing.assert_close(packed, plain, atol=1e-4, rtol=1e-4)
    layers = [module for module in model.modules() if isinstance(module, PackedLinear)]
    assert len(layers) == 2 * 7 + 1  # with the output head
    assert not any(isinstance(module, torch.nn.Linear) for module in model.modules())


def test_a_float32_checkpoint_stays_plain(tiny_folder):
    plain, loaded, model = plain_and_loaded_logits(tiny_folder(4))
    assert torch.equal(loaded, plain)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())


def test_without_fbgemm_layers_stay_plain(tiny_folder, monkeypatch):
    engines = types.SimpleNamespace(supported_engines=["none"])
    monkeypatch.setattr(torch.backends, "quantized", engines)
    plain, loaded, model = plain_and_loaded_logits(tiny_folder(4, dtype=torch.bfloat16))
    assert torch.equal(loaded, plain)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())


@needs_fbgemm
def test_what_float16_does_to_bfloat16_weights():
    """What the docstring of pack_linear_layers says of large, small and tiny weights."""
    weights = torch.tensor([[65280.0], [1.0], [2.0**-17 * 1.9921875], [2.0**-20 * 1.9921875]])
    weights = weights.bfloat16()  # all exactly so
    layer = torch.nn.Linear(1, 4, bias=False, dtype=torch.bfloat16)
    layer.weight.data = weights
    found = PackedLinear(layer)(torch.ones(1, 1))[0]
    exact = weights.float()[:, 0]
    assert found[:3].tolist() == exact[:3].tolist()
    assert 0 < abs(found[3] - exact[3]) <= 2**-25


@pytest.mark.skipif(ACCELERATOR is None, reason="needs an accelerator")
def test_the_accelerator_gives_the_cpus_texts(tiny_folder, monkeypatch):
    folder = tiny_folder(4, scale=0.3, dtype=torch.bfloat16)
    prompt = [0, 1, 2]
    texts = {}
    for device in (None, ACCELERATOR):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda d=device, **_: d)
        model, _ = common.load(folder)
        generator = torch.Generator().manual_seed(0)
        texts[model.device.type] = [
            greedy(model, prompt, 40),
            best(beam_search(model, prompt, 4, 40), 1.0),
            *sample(model, prompt, SETTINGS, generator, 40),
        ]
    assert len(texts) == 2
    on_cpu, on_accelerator = texts.values()
    assert [text.tokens for text in on_cpu] == [text.tokens for text in on_accelerator]


def truncate(folder):
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size // 2)


def delete(folder, pattern):
    for path in folder.glob(pattern):
        path.unlink()


def lose(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


WRONG = {
    "absent": (shutil.rmtree, "could not be loaded from the Hub"),
    "empty": (lambda folder: delete(folder, "*"), "config.json"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
    "truncated weights": (truncate, "incomplete"),
    "lost weights": (lose, "weights are missing: ['lm_head.weight']"),
    "no tokenizer": (lambda folder: delete(folder, "tokenizer*"), "its tokenizer is missing"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_folder(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    make_tiny(tmp_path)
    spoil, reason = WRONG[kind]
    spoil(tmp_path)
    with pytest.raises(ValueError) as raised:
        common.load(str(tmp_path))
    message = str(raised.value)
    assert message.startswith(str(tmp_path)) and reason in message
    assert (common.WITHOUT_HUB in message) == (kind == "absent")


def test_the_hint_is_the_readmes_command():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"`{common.WITHOUT_HUB}`" in readme


@pytest.fixture
def hub(tmp_path):
    """A server with a tiny model under the default id, which counts its requests.

    If `hub.cut` is set, it sends half the weights.
    """
    make_tiny(tmp_path / "served", letters=None, scale=0.3)
    commit = "0123456789abcdef0123456789abcdef01234567"
    api, answers = f"/api/models/{MODEL_ID}", {}
    info = json.dumps({"id": MODEL_ID, "sha": commit}).encode()
    for revision in ("main", commit):
        answers |= {api: info, f"{api}/revision/{revision}": info}
        for path in (tmp_path / "served").iterdir():
            answers[f"/{MODEL_ID}/resolve/{revision}/{path.name}"] = path.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.requests += 1
            path = self.path.partition("?")[0]
            body = answers.get(path, b"")
            self.send_response(200 if path in answers else 404)
            if path not in answers:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("Content-Length", len(body))
            self.end_headers()
            if server.cut and path.endswith(".safetensors"):
                body = body[: len(body) // 2]
            self.wfile.write(body if self.command == "GET" else b"")

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests = 0
        server.cut = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run_default_model(copy, port, **environment):
    """Task 1 with a Hub on loopback and a cache of its own."""
    environment = {
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(copy / "cache"),
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "NO_PROXY": "127.0.0.1",
    } | environment
    return run_script(copy, "task1_greedy", "--max-new-tokens", "3", **environment)


def check_written(done, copy):
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Model `{MODEL_ID}` on ")
    output = copy / "outputs" / "task1_greedy.md"
    assert output.read_text(encoding="utf-8") == done.stdout
    output.write_text("before")


def check_refused(done, copy):
    assert (done.returncode, done.stdout) == (2, "")
    *notes, error = done.stderr.splitlines()
    assert error.startswith(f"task1_greedy.py: {MODEL_ID} is not on this machine and")
    assert error.endswith(f"Without the Hub: {common.WITHOUT_HUB}")
    assert "Traceback" not in "".join(notes)
    assert (copy / "outputs" / "task1_greedy.md").read_text() == "before"


def test_default_model_cut_off_then_downloaded_then_cached(copy, hub):
    hub.cut = True  # huggingface_hub tries six times, in 5 s
    check_refused(run_default_model(copy, hub.server_port), copy)
    hub.cut = False
    check_written(run_default_model(copy, hub.server_port), copy)
    assert hub.requests > 0
    hub.requests = 0
    check_written(run_default_model(copy, hub.server_port), copy)
    assert hub.requests == 0  # a second run needs no network


def test_default_model_with_neither_hub_nor_cache(copy):
    nobody = 9  # a port; without HF_HUB_OFFLINE the library would try it for 48 s
    done = run_default_model(copy, nobody, HF_HUB_OFFLINE="1")
    check_refused(done, copy)


def test_a_wrong_model_of_a_script_is_one_line(copy):
    truncate(copy / "tiny")
    done = run_script(copy, "task1_greedy", "--model", str(copy / "tiny"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"task1_greedy.py: {copy / 'tiny'}: ")
    assert done.stderr.count("\n") == 1
    assert (copy / "outputs" / "task1_greedy.md").read_text() == "before"
