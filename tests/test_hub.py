"""The default model, from a Hub on loopback; models that are not what they should be."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import transformers
from conftest import ROOT, make_tiny
from safetensors.torch import load_file, save_file

import common
import task1_greedy
import task3_temperature
from common import MODEL_ID

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HINT = """pip install -r tests/requirements.txt && \
python task1_greedy.py --model "$(python tests/offline_model.py)\""""


@pytest.fixture
def copy(tmp_path):
    """A copy of the scripts, and what an earlier run has written."""
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "task1_greedy.md").write_text("before")
    return tmp_path


@pytest.fixture
def hub(tmp_path):
    """A server with a tiny model under the default id; if `hub.cut`, it sends half the weights."""
    make_tiny(tmp_path / "served", scale=0.3)
    api, answers = f"/api/models/{MODEL_ID}", {}
    info = json.dumps({"id": MODEL_ID, "sha": COMMIT}).encode()
    for revision in ("main", COMMIT):
        answers |= {api: info, f"{api}/revision/{revision}": info}
        for path in (tmp_path / "served").iterdir():
            answers[f"/{MODEL_ID}/resolve/{revision}/{path.name}"] = path.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            body = answers.get(path, b"")
            self.send_response(200 if path in answers else 404)
            if path not in answers:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-HF-Warning", "login; Please log in")  # the real one may warn
            self.send_header("X-Repo-Commit", COMMIT)
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
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run(copy, *arguments, port=9):  # port 9: nobody's
    """Task 1 with a Hub on loopback and a cache of its own."""
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))
    }
    environment |= {"HF_HOME": str(copy / "cache"), "HF_ENDPOINT": f"http://127.0.0.1:{port}"}
    environment |= {"NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "task1_greedy.py", "--max-new-tokens", "3", *arguments]
    settings = {"cwd": copy, "env": environment, "text": True, "timeout": 45}
    return subprocess.run(command, capture_output=True, check=False, **settings)


def check_success(done, copy):
    assert (done.returncode, done.stderr) == (0, "")
    assert f"`python task1_greedy.py --max-new-tokens 3`: model `{MODEL_ID}`" in done.stdout
    assert (copy / "outputs" / "task1_greedy.md").read_text(encoding="utf-8") == done.stdout


def check_failure(done, copy, model):
    """Exit code 2, one line about the model, outputs/ as before."""
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"task1_greedy.py: {model}: ")
    assert (HINT in done.stderr) == (model == MODEL_ID)  # a folder that is there needs no hint
    assert [path.name for path in (copy / "outputs").iterdir()] == ["task1_greedy.md"]
    assert (copy / "outputs" / "task1_greedy.md").read_text() == "before"


def test_default_model_cut_off_then_downloaded_then_cached(copy, hub):
    hub.cut = True  # huggingface_hub tries six times, in 5 s
    check_failure(run(copy, port=hub.server_port), copy, MODEL_ID)
    hub.cut = False
    check_success(run(copy, port=hub.server_port), copy)
    (copy / "outputs" / "task1_greedy.md").unlink()
    check_success(run(copy), copy)


def test_default_model_without_hub_or_cache(copy):
    check_failure(run(copy), copy, MODEL_ID)


def truncate(folder):
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size // 2)


def delete(folder, pattern):
    for path in folder.glob(pattern):
        path.unlink()


def lose(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def save_encoder(folder):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    config = transformers.BertConfig(vocab_size=300, num_attention_heads=2, **sizes)
    transformers.BertForMaskedLM(config).save_pretrained(folder)


WRONG = {
    "absent": (shutil.rmtree, f"no such folder, nor to be had from the Hub). {common.WITHOUT_HUB}"),
    "empty": (lambda folder: delete(folder, "*"), ""),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
    "truncated weights": (truncate, ""),
    "lost weights": (lose, "weights are missing: ['lm_head.weight']"),
    "no tokenizer": (lambda folder: delete(folder, "tokenizer*"), "no tokenizer with an EOS"),
    "encoder": (save_encoder, "no causal language model: ['BertForMaskedLM']"),
    "unnamed": (lambda folder: None, ""),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_model(tiny, tmp_path, monkeypatch, kind):
    """An error about it, no connection, and the model in use stays in use."""
    tiny()
    before, calls = common._loaded, []
    monkeypatch.setattr(socket, "create_connection", lambda *given, **_: calls.append(given))
    make_tiny(tmp_path)
    spoil, reason = WRONG[kind]
    spoil(tmp_path)
    model = "" if kind == "unnamed" else str(tmp_path)
    with pytest.raises(ValueError) as raised:
        common.load(model)
    message = " ".join(str(raised.value).split())
    assert message.startswith(f"{model}: ") and reason in message
    assert "no such folder" not in message or kind in ("absent", "unnamed")
    assert common._loaded is before and calls == []
    assert task1_greedy.greedy("abc", 1).tokens


def test_wrong_model_of_a_script(copy):
    model = make_tiny(copy / "wrong")
    truncate(copy / "wrong")
    check_failure(run(copy, "--model", model), copy, model)


@pytest.mark.parametrize("layer", ["model.embed_tokens", "lm_head"])
def test_broken_weights(tiny, tmp_path, layer):
    network = transformers.Qwen2ForCausalLM.from_pretrained(tiny())
    network.get_submodule(layer).weight.data[:, 0] = torch.nan
    shutil.copytree(tiny(), tmp_path, dirs_exist_ok=True)
    network.save_pretrained(tmp_path)
    common.load(str(tmp_path))
    with pytest.raises(ValueError, match="its weights are broken"):
        task1_greedy.greedy("abc", 3)
    with pytest.raises(ValueError, match="its weights are broken"):
        task3_temperature.sample("abc", [0.5, 1.0], torch.Generator(), 3)
