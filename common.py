"""What the five tasks share, in three parts: decoding, the model, the report."""

import argparse
import contextlib
import json
import math
import sys
import textwrap
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

    @torch.no_grad()
    def __init__(self, model, prompt):
        self.model = model
        self.last_prompt_token = prompt[-1]
        self.cache = transformers.DynamicCache(config=model.config)
        self.row_count = 1  # of the cache: at first the prompt's row alone, which all texts share
        self.steps = 0  # taken so far: each text that goes on has as many tokens
        if len(prompt) > 1:  # prefill: read all but the last token, so that all steps are alike
            input_ids = torch.tensor([prompt[:-1]], device=model.device)
            # The model adds what it reads to the cache. Its logits (of 1 position) are not needed.
            model(input_ids=input_ids, past_key_values=self.cache, logits_to_keep=1)


@torch.no_grad()
def step(context, texts):
    """Read the last token of each text; return the logits of the next, float32 (texts, vocabulary).

    `texts` are those that go on. A text that is missing loses its row of the cache; texts that were
    `extended` from the same one get a copy of its row each. Their cache_row follows. All are
    equally long, so there is no padding, and no attention mask is needed.

    ValueError for a text that an earlier step left out, and where the model gives NaN.
    """
    # A text that was left out is too short. (One that was `extended` from it would not be noticed.)
    if any(len(text.tokens) != context.steps for text in texts):
        raise ValueError("a text that was left out of a step can't come back")
    context.steps += 1

    device = context.model.device
    rows = [text.cache_row for text in texts]
    # Rows are copied only if a text has left, split or moved.
    if rows != list(range(context.row_count)):
        context.cache.batch_select_indices(torch.tensor(rows, device=device))
        context.row_count = len(rows)
    for row, text in enumerate(texts):
        text.cache_row = row

    # A text without tokens continues the prompt: the prompt's last token is read instead.
    last_tokens = [text.tokens[-1] if text.tokens else context.last_prompt_token for text in texts]
    input_ids = torch.tensor(last_tokens, device=device).unsqueeze(1)  # (texts, 1)
    # The model adds these tokens to the cache.
    output = context.model(input_ids=input_ids, past_key_values=context.cache)
    logits = output.logits[:, -1]  # of (texts, 1, vocabulary)
    if logits.isnan().any():  # argmax and topk would go on with any token, and say nothing
        raise ValueError(f"the model gave NaN as logits, on {device}")
    return logits


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
        raise ValueError("probabilities are NaN: is a temperature 0?")
    # Two draws, of which the first is used: for one alone, multinomial is far slower. It looks the
    # two up in a running sum, which must be double, or the rarest tokens are lost.
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


class DeviceError(ValueError):
    """A device that is not there, or that can't compute."""


def load(name=MODEL_ID, device="auto"):
    """The model and its tokenizer. All arithmetic will be float32.

    name: a local folder, or a model's id on the Hugging Face Hub.
    device: what torch calls it; "auto" is the accelerator if there is one, else the CPU.

    DeviceError for a device that does not work, before anything is read. ValueError for a
    checkpoint that lacks weights, or a tokenizer that does not know EOS. Other errors come from the
    libraries as they are.
    """
    device = working_device(device)
    model, tokenizer = read_here_or_from_hub(name)
    if device.type == "cpu":
        pack_linear_layers(model)
    return model.float().to(device), tokenizer


def working_device(name):
    """The torch device of that name, after a tiny operation on it. DeviceError if that fails."""
    try:
        if name == "auto":
            name = torch.accelerator.current_accelerator(check_available=True) or "cpu"
        device = torch.device(name)
        # A GPU that is too old for this torch is found and takes data, but can't compute.
        torch.ones(1, device=device).add(1).item()
    except Exception as error:  # each kind of device has its own; some go on for pages
        reason = textwrap.shorten(one_line(error), 300)
        raise DeviceError(
            f"the device {name} does not work ({reason}). Use --device cpu"
        ) from error
    return device


def one_line(error):
    """An error's kind and message, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def read_here_or_from_hub(name):
    """`read_checkpoint`: what is on this machine first, so that a second run needs no network."""
    # By one of these errors the libraries say that something is missing here. (In an `except` block
    # an error of the second attempt would carry the first one along.)
    with contextlib.suppress(OSError, ValueError):
        return read_checkpoint(name, local_files_only=True)
    return read_checkpoint(name, local_files_only=False)


def read_checkpoint(name, local_files_only):
    """The model, in the checkpoint's own dtype, and its tokenizer."""
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        name, dtype="auto", output_loading_info=True, local_files_only=local_files_only
    )
    if loading["missing_keys"]:  # from_pretrained makes them random
        raise ValueError(f"weights are missing: {sorted(loading['missing_keys'])}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, local_files_only=local_files_only)
    if tokenizer("<|im_end|>").input_ids != [EOS]:  # with files missing it is split into letters
        raise ValueError(f"the tokenizer does not read <|im_end|> as the one token {EOS}")
    return model.eval(), tokenizer


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

    On a CPU reading the weights is a large part of what a step costs. float16 holds bfloat16
    weights exactly from 2**-17 (0.000008) up to 65504; smaller ones move by at most 2**-25. A
    float32 model keeps its plain layers, and so does any model under a torch without these
    operators.
    """
    if model.dtype.itemsize != 2 or torch.backends.quantized.engine not in ("x86", "fbgemm"):
        return
    for module in list(model.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, torch.nn.Linear):
                setattr(module, name, PackedLinear(layer))


# ---------------------------------------------------------------------------------- the report

OUTPUTS = Path(__file__).resolve().parent / "outputs"
RIGHT_ANSWER = {"contractor": "Mike", "sum": 100.5, "currency": "RUB"}
SHORT_TEXT = 60  # tokens: up to these a text is not folded, and has its marks of doubt
PARTS = 30  # of a story in the table at the end
BEGINNING = "Sonic was a tiny hedgehog who loved to"  # of a story, to look at one step
WIDTH = 90  # of a line in a fence, in characters: a page of GitHub holds a few more
LEGEND = (
    "How to read it: the model's *doubt* about a token is 1 minus the probability that it gave the "
    "token itself. The marks below a short text show it under each character, in eighths from ▁ to "
    "█, a blank for less than 1/16; the table at the end shows it for each story, as the means of "
    f"{PARTS} even parts (of a shorter text: of its tokens), with ▁ for a blank too. *Cut*: the "
    "limit came before EOS. A JSON is *right* if it equals "
    f"`{json.dumps(RIGHT_ANSWER)}`, *not valid* if the text as a whole does not parse (because of "
    "a code fence around it, for example), and else *wrong*."
)


def start(script, description, draws=False):
    """What every script begins with. Returns (args, model, tokenizer, report).

    script: its `__file__`. draws: whether it draws at random, and so takes a seed. A wrong
    argument, and a model that can't be loaded, end it with one message and exit code 2.
    """
    parser = argparse.ArgumentParser(
        prog=Path(script).name,
        description=description,
        epilog="What is printed is Markdown. Once it is complete, it is written to outputs/ too.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", default=MODEL_ID, help="Hugging Face Hub id or local folder")
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps; auto: a GPU if any")
    limit_help = "limit of a text, in tokens"
    parser.add_argument("--max-new-tokens", type=int, default=MAX_NEW_TOKENS, help=limit_help)
    if draws:
        parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    args = parser.parse_args()
    model, tokenizer = check_and_load(parser, args)
    return args, model, tokenizer, Report(script, args, model, tokenizer)


def check_and_load(parser, args):
    """The model and the tokenizer; where an argument is wrong, one message and exit code 2."""
    if args.max_new_tokens < 1:
        parser.error("--max-new-tokens must be at least 1")
    if "seed" in args and not 0 <= args.seed < 2**32:  # torch's CPU generator uses 32 bits
        parser.error("--seed must be from 0 to 2**32 - 1")
    try:
        return load(args.model, args.device)
    except DeviceError as error:
        parser.error(str(error))
    except Exception as error:  # noqa: BLE001 (the Hub, the network, files, libraries: any kind)
        reason = one_line(error)
        if error.__context__:  # what it came from: a proxy's missing package, for example
            reason += f", after {one_line(error.__context__)}"
        parser.error(
            f"{args.model} could not be loaded ({reason}). "
            "Without the Hugging Face Hub: see README.md"
        )


class Report:
    """The Markdown of a script: printed piece by piece, then written to outputs/ as a whole."""

    def __init__(self, script, args, model, tokenizer):
        self.script = script
        self.tokenizer = tokenizer
        self.markdown = ""
        self.glance = {}  # by label of a setting: its row of the table at the end
        self.add(provenance(args, model))
        self.add(LEGEND)

    def add(self, piece):
        """Print a piece of Markdown, and keep it."""
        piece += "\n\n"
        self.markdown += piece
        encoding = sys.stdout.encoding or "utf-8"  # a console may lack most characters
        print(piece.encode(encoding, "backslashreplace").decode(encoding), end="", flush=True)

    def add_texts(self, name, texts):
        """Add the texts of a prompt, and their part of the table at the end.

        name: of the prompt; texts of "json" are judged. texts: {label of a setting: its text}.
        """
        self.add(f"### Prompt {code(name)}")
        labels = {}  # of the texts that stand here already, by their tokens
        for label, text in texts.items():
            tokens = tuple(text.tokens)
            if tokens in labels:
                self.add(f"**{label}**: the same text as {labels[tokens]}.")
            else:
                labels[tokens] = label
                self.add(text_section(label, text, self.tokenizer))
            row = self.glance.setdefault(label, {"setting": label})
            if name == "json":
                row["JSON"] = verdict(text, self.tokenizer)
            else:
                row["story"] = token_count(text)
                row["its doubt, from beginning to end"] = f"`{doubt_line(text)}`"

    def finish(self):
        """Add the table of all texts at a glance, and write everything to outputs/."""
        self.add(f"### At a glance\n\n{table(list(self.glance.values()))}")
        write_output(self.script, self.markdown)


def write_output(script, markdown):
    """Write a script's Markdown to outputs/<script>.md, which is replaced whole or not at all."""
    OUTPUTS.mkdir(exist_ok=True)
    target = OUTPUTS / f"{Path(script).stem}.md"
    temporary = target.with_name(f".{target.name}")
    temporary.write_bytes(markdown.encode())  # bytes: UTF-8 with LF on every system
    temporary.replace(target)


def provenance(args, model):
    """The first line of a report: what wrote it."""
    folder = Path(args.model)
    name = folder.resolve().name if folder.is_dir() else args.model
    facts = [f"Model {code(name)} on {model.device.type}, all arithmetic float32"]
    if "seed" in args:
        facts.append(f"seed {args.seed}")
    if args.max_new_tokens != MAX_NEW_TOKENS:
        facts.append(f"at most {args.max_new_tokens} tokens a text")
    facts.append(f"torch {torch.__version__}, transformers {transformers.__version__}")
    return "; ".join(facts) + "."


def text_section(label, text, tokenizer):
    """A text under its label: a short one with its marks of doubt, a longer one folded."""
    if len(text.tokens) <= SHORT_TEXT:
        return f"**{label}**: {token_count(text)}\n\n{fenced(with_marks(text, tokenizer))}"
    characters = visible(tokenizer.decode(text.tokens))
    lines = [characters[begin:end] for begin, end in wrapped(characters)]
    summary = f"<summary><b>{label}</b>: {token_count(text)}</summary>"
    return f"<details>{summary}\n\n{fenced(lines)}\n\n</details>"


def token_count(text):
    """A text's length in words: "272 tokens", or "1000 tokens, cut"."""
    return f"{len(text.tokens)} tokens" + ("" if text.ended else ", cut")


def verdict(text, tokenizer):
    """What a text is as an answer to the JSON prompt: "right", "wrong" or "not valid"."""
    tokens = text.tokens[:-1] if text.ended else text.tokens
    try:
        answer = json.loads(tokenizer.decode(tokens))
    except (ValueError, RecursionError):  # no JSON, or one that is nested too deep
        return "not valid"
    return "right" if answer == RIGHT_ANSWER else "wrong"


def doubts(text):
    """The model's doubt about each token, from 0 to 1: float32 (tokens,)."""
    return 1 - torch.tensor(text.logprobs).exp()


def mark(doubt):
    """The mark of a doubt: a blank below 1/16, then ▁ to █, whichever eighth is nearest."""
    return " ▁▂▃▄▅▆▇█"[int(8 * doubt + 0.5)]


def doubt_line(text):
    """The mean doubt of each of PARTS even parts of a text (of its tokens, if they are fewer)."""
    parts = doubts(text).tensor_split(min(PARTS, len(text.tokens)))
    marks = "".join(mark(float(part.mean())) for part in parts)
    return marks.replace(" ", "▁")  # so that both ends are seen


def with_marks(text, tokenizer):
    """The lines of a text, below each the marks of doubt of its characters, if there are any."""
    marks = ""  # one per character
    for count, doubt in enumerate(doubts(text).tolist(), start=1):
        end = len(visible(tokenizer.decode(text.tokens[:count])))
        # A token that only completes a character adds none: the mark of its first half stays.
        marks += mark(doubt) * (end - len(marks))
    characters = visible(tokenizer.decode(text.tokens))
    lines = []
    for begin, end in wrapped(characters):
        lines.append(characters[begin:end])
        if marks[begin:end].strip():
            lines.append(marks[begin:end].rstrip())
    return lines


def wrapped(characters):
    """The lines of a text, none over WIDTH: a list of (begin, end), positions in `characters`."""
    spans = []
    begin = 0
    for line in characters.split("\n"):
        end = begin + len(line.rstrip(" "))  # blanks at the end would make an empty line
        next_line = begin + len(line) + 1
        while end - begin > WIDTH:
            space = characters.rfind(" ", begin + 1, begin + WIDTH + 1)
            if space == -1:  # one long word
                spans.append((begin, begin + WIDTH))
                begin += WIDTH
            else:
                spans.append((begin, space))
                begin = space + 1
        spans.append((begin, end))
        begin = next_line
    return spans


def example_step(model, tokenizer):
    """The logits of what follows BEGINNING in the story, float32 (vocabulary,)."""
    prompt = tokenizer(PROMPTS["hedgehog"] + BEGINNING).input_ids
    return step(Context(model, prompt), [Text()])[0]


def step_table(logits, distributions, tokenizer):
    """What the settings make of one step: a table of the likeliest next tokens, a column each.

    logits: float32 (vocabulary,), of `example_step`.
    distributions: {label of a setting: probs, float (vocabulary,)}.
    """
    rows = []
    for token in logits.topk(6).indices.tolist():
        row = {"next token": code(tokenizer.decode(token))}
        for label, probs in distributions.items():
            row[label] = probability_cell(probs, token)
        rows.append(row)
    bits = {label: f"{entropy(probs):.2f} bits" for label, probs in distributions.items()}
    rows.append({"next token": "entropy"} | bits)
    counts = {label: int((probs > 0).sum()) for label, probs in distributions.items()}
    rows.append({"next token": "tokens left"} | counts)
    return (
        "### One step under every setting\n\n"
        f"What may follow {code(BEGINNING)}: the six likeliest tokens. Their order is the same "
        "under every setting. A plain 0: the cut, or float32, has left nothing of it.\n\n"
        f"{table(rows)}"
    )


def probability_cell(probs, token):
    """A token's probability: two significant digits, and a bar of at most five blocks.

    probs: float (vocabulary,). "0" is a token of which nothing is left, "1" the only one left.
    """
    prob = float(probs[token])
    if prob == 0:
        return "0"
    digits = f"{prob:#.2g}"
    if digits == "1.0":
        digits = "1" if (probs > 0).sum() == 1 else ">0.99"
    blocks, eighths = divmod(round(5 * 8 * prob), 8)  # five blocks of eight eighths
    return f"{digits} {'█' * blocks}{' ▏▎▍▌▋▊▉'[eighths]}".rstrip()


def entropy(probs):
    """The entropy of a distribution in bits: of probs, float (vocabulary,)."""
    return torch.special.entr(probs).sum() / math.log(2)


def table(rows):
    """A Markdown table: a list of dicts whose keys, the same in all, are its columns."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns)]
    lines += [[row[column] for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def tree(leaves, tokenizer, indent=""):
    """The lines of a tree of texts, in which a beginning that several share is shown once.

    leaves: (tokens, note to stand at the right); the notes are equally long, and no text is the
    beginning of another. indent: what stands before each line.
    """
    branches = {}  # by its first token: the leaves that begin with it
    for tokens, note in leaves:
        branches.setdefault(tokens[0], []).append((tokens, note))
    lines = []
    for number, branch in enumerate(branches.values(), start=1):
        corner, bar = ("└─ ", "   ") if number == len(branches) else ("├─ ", "│  ")
        first_tokens, note = branch[0]
        shared = len(first_tokens)
        if len(branch) > 1:
            note = ""  # the notes stand where the branch ends
            shared = 1
            while len({tokens[shared] for tokens, _ in branch}) == 1:  # somewhere they differ
                shared += 1
        piece = visible(tokenizer.decode(first_tokens[:shared])).replace("\n", "⏎")
        room = WIDTH - len(indent + corner) - len(note) - 1
        if len(piece) > room:  # its middle gives way
            half = max(1, (room - 3) // 2)
            piece = f"{piece[:half]} … {piece[-half:]}"
        lines.append(((indent + corner + piece).ljust(WIDTH - len(note)) + note).rstrip())
        if len(branch) > 1:
            rests = [(tokens[shared:], leaf_note) for tokens, leaf_note in branch]
            lines += tree(rests, tokenizer, indent + bar)
    return lines


def fenced(lines):
    """Lines of text in a fence that nothing in them can close."""
    body = "\n".join(lines)
    fence = "```"
    while fence in body:
        fence += "`"
    return f"{fence}text\n{body}\n{fence}"


def visible(string):
    """The string with all that is not printable, and may act on a terminal, as escapes: \\x1b."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in string)


def code(string):
    """The string as Markdown code that is safe in a table cell."""
    string = visible(string).replace("\n", "⏎").replace("`", "\\x60").replace("|", "\\|")
    return f"`{string}`"
