"""What every task needs alike: the model, one decoding step, the texts so far, and the report."""

import argparse
import json
import os
import re
import shlex
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUTPUTS = HERE / "outputs"
TEMPORARY = OUTPUTS / f".{os.getpid()}.tmp"


def _stop(number, _frame):
    """End at once, without a traceback, with the shell's exit code for the signal (130 or 143)."""
    TEMPORARY.unlink(missing_ok=True)
    os._exit(128 + number)


if Path(sys.argv[0]).name.startswith("task"):  # a script, not pytest or a notebook
    signal.signal(signal.SIGINT, _stop)  # before the slow imports: Ctrl-C may come during them
    signal.signal(signal.SIGTERM, _stop)

import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

MODEL_ID = "Qwen/Qwen2.5-0.5B-Instruct"
MAX_NEW_TOKENS = 1000
PROMPTS = {
    "hedgehog": "<|im_start|>system\nYou are a storyteller. Generate a story based on user message."
    "<|im_end|>\n<|im_start|>user\nGenerate me a short story about a tiny hedgehog named Sonic."
    "<|im_end|>\n<|im_start|>assistant\n",
    "json": "<|im_start|>system\nYou are a JSON machine. Generate a JSON with format "
    '{"contractor": string with normalized contractor name, "sum": decimal, '
    '"currency": string with uppercased 3-letter currency code} based on user message.'
    "<|im_end|>\n<|im_start|>user\nTransfer 100 rubles and 50 kopeck to Mike"
    "<|im_end|>\n<|im_start|>assistant\n",
}
EXPECTED = {"contractor": "Mike", "sum": 100.5, "currency": "RUB"}  # the right answer to "json"
BATCH = 20  # most rows decoded at once: bounds the KV cache, 25 KB per row and token
DEVICE = (
    "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
)
_loaded = (MODEL_ID, None, None)  # name, model, tokenizer


# ---------------------------------------------------------------- the model and one step of it


class PackedLinear(torch.nn.Module):
    """A linear layer whose float32 weight is stored in oneDNN's blocked order (CPU only).

    Same result up to rounding; a step with few rows then runs at the memory's speed.
    """

    def __init__(self, linear):
        super().__init__()
        self.bias = linear.bias
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)

    def forward(self, x):  # (..., in features) -> (..., out features)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def pack(model):
    """Replace every linear layer of a CPU model, in place; no change where torch can't do it."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is torch.nn.Linear:
                try:
                    setattr(module, name, PackedLinear(child))
                except (AttributeError, RuntimeError):  # a torch without oneDNN or this operator
                    return


def load(model=MODEL_ID):
    """The model (float32, in evaluation mode) and its tokenizer; what is loaded is kept.

    model: a Hugging Face Hub id or a local folder. Later `Decoding`s use this one.
    Raises ValueError, in one line, if it can't be had or is no causal language model.
    """
    global _loaded
    if _loaded[0] == model and _loaded[1]:
        return _loaded[1:]
    import transformers  # takes seconds: not for --help

    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        network = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    except Exception as error:
        raise ValueError(f"cannot load {model}: {error}") from error
    network.eval().to(DEVICE)
    if DEVICE == "cpu":
        pack(network)
    _loaded = (model, network, tokenizer)
    return network, tokenizer


@dataclass
class Text:
    """A generated text, or one in the making. A beam search calls it a candidate."""

    tokens: list = field(default_factory=list)  # ids, EOS included where it ended so
    logprobs: list = field(default_factory=list)  # natural logs, under the model's own softmax
    kept: list = field(default_factory=list)  # task 4: tokens in the nucleus at each step
    ending: str = ""  # "" while unfinished, then "EOS" or "limit"
    text: str = ""  # decoded, special tokens included

    @property
    def score(self):
        """Sum of the log-probabilities: the logarithm of the text's probability."""
        return sum(self.logprobs)


class Decoding:
    """Texts decoded side by side from one prompt. Those that have ended leave the batch.

    texts: the `Text` of every row; open: indices into `texts` of the rows that go on, in the
    order of the rows of the logits; cache: the KV cache of the open rows.
    Raises ValueError for an empty prompt, and for rows or max_new_tokens below 1.
    """

    def __init__(self, prompt, rows=1, max_new_tokens=MAX_NEW_TOKENS):
        if not prompt:
            raise ValueError("the prompt is empty")
        if rows < 1 or max_new_tokens < 1:
            raise ValueError(f"nothing to do: {rows} texts of at most {max_new_tokens} tokens")
        self.model, self.tokenizer = load(_loaded[0])
        from transformers import DynamicCache

        self.eos = self.tokenizer.eos_token_id
        self.max_new_tokens = max_new_tokens
        self.texts = [Text() for _ in range(rows)]
        self.open = list(range(rows))
        self.cache = DynamicCache(config=self.model.config)
        self.pending = torch.tensor([self.tokenizer(prompt).input_ids], device=DEVICE)  # (1, prompt)
        self.bar = tqdm(unit=" tokens", leave=False, disable=None)

    def reorder(self, parents):
        """Let open row i become a copy of open row parents[i]. parents: int64 (new open rows,)."""
        branches = [self.texts[self.open[parent]] for parent in parents.tolist()]
        branches = [Text(t.tokens[:], t.logprobs[:], t.kept[:]) for t in branches]
        ended = [text for text in self.texts if text.ending]
        self.texts = ended + branches
        self.open = list(range(len(ended), len(self.texts)))
        self.parents = self.parents[parents]

    def append(self, tokens, kept=None):
        """Give each open row its next token; close those at EOS or at the limit.

        tokens: int64 (open rows,); kept: tokens in the nucleus, int64 (open rows,), if there is one.
        """
        logprobs = self.logits[self.parents, tokens] - self.log_total[self.parents]
        going = []
        for i, token, logprob in zip(range(len(self.open)), tokens.tolist(), logprobs.tolist(), strict=True):
            text = self.texts[self.open[i]]
            text.tokens.append(token)
            text.logprobs.append(logprob)
            if token == self.eos or len(text.tokens) == self.max_new_tokens:
                text.ending = "EOS" if token == self.eos else "limit"
                text.text = self.tokenizer.decode(text.tokens)
            else:
                going.append(i)
        if kept is not None:
            for row, count in zip(self.open, kept.tolist(), strict=True):
                self.texts[row].kept.append(count)
        self.bar.update(len(self.open))
        self.open = [self.open[i] for i in going]
        self.bar.total = self.bar.n + len(self.open) * (self.max_new_tokens - len(text.tokens))
        self.pending = tokens[going, None]  # (open rows, 1)
        rows = self.parents[going]
        if rows.tolist() != list(range(len(self.logits))):
            self.cache.batch_select_indices(rows)


@torch.no_grad()
def step(decoding):
    """Next-token logits of the open rows: float32 (open rows, vocabulary).

    The model reads only what the KV cache does not hold yet: first the prompt, once for all rows,
    then one token per row. Raises ValueError if the logits give no distribution.
    """
    logits = decoding.model(
        input_ids=decoding.pending,
        past_key_values=decoding.cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    rows = len(decoding.open)
    if len(logits) < rows:  # the prompt is the same for all
        decoding.cache.batch_repeat_interleave(rows)
        logits = logits.repeat_interleave(rows, dim=0)
    decoding.logits = logits
    decoding.log_total = logits.logsumexp(dim=-1)  # (open rows,)
    decoding.parents = torch.arange(rows, device=logits.device)
    if not decoding.log_total.isfinite().all():
        raise ValueError("the model's logits are no numbers: its weights are broken")
    return logits
