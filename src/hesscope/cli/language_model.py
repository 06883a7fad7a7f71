"""A causal language model in a folder, as transformers saves it, on the text of a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hesscope.cli.processes import launched
from hesscope.cli.words import remark

if TYPE_CHECKING:
    from hesscope.problem.problem import Problem

LENGTH = 1_024  # tokens of an example, at most
TOGETHER = 4_096  # tokens of a batch
SUFFIXES = {"k": 1_000, "M": 1_000_000}
USUAL = 16_000


def add_language_model_arguments(parser: argparse.ArgumentParser) -> None:
    """In place of a target: a folder, a text, and how much of it."""
    group = parser.add_argument_group("a causal language model of transformers, as the target")
    group.add_argument("--hf", type=Path, metavar="DIR", help="folder with model and tokenizer")
    group.add_argument("--text", type=Path, metavar="FILE", help="what the loss is taken of")
    text = f"how much of it, as 4000 or 16k (default: {USUAL // 1000}k)"
    group.add_argument("--tokens", type=number_of, default=USUAL, metavar="N", help=text)
    text = f"tokens of an example (default: what the model takes, at most {LENGTH})"
    group.add_argument("--length", type=number_of, metavar="N", help=text)


def number_of(text: str) -> int:
    """A number that may end in k for thousands or M for millions.

    Raises:
        argparse.ArgumentTypeError: if it is none above one.

    >>> number_of("16k"), number_of("1.5M")
    (16000, 1500000)
    """
    factor = SUFFIXES.get(text[-1:], 1)
    try:
        number = float(text[:-1] if factor > 1 else text) * factor
    except ValueError:
        number = 0.0
    if not number >= 2 or number != int(number):
        msg = f"{text!r} is no number of tokens; give one such as 4000 or 16k."
        raise argparse.ArgumentTypeError(msg)
    return int(number)


def language_model(options: argparse.Namespace) -> Problem:
    """The mean loss per token of the model on the text, in rows of equal length.

    Nothing is downloaded, no code of the folder is run, and weights are read from safetensors.

    Raises:
        ValueError: if text or model are missing or do not fit.
        RuntimeError: if transformers is not installed.
    """
    from hesscope.problem.problem import Problem

    if options.text is None or not options.text.is_file():
        what = "no --text is given" if options.text is None else f"there is no file {options.text}"
        msg = f"{what}: --hf needs a text whose tokens are predicted, --text FILE."
        raise ValueError(msg)
    model = _model(options.hf)
    tokens = _tokens(options.hf, model, options.text)[: options.tokens]
    longest = getattr(model.config, "max_position_embeddings", None) or LENGTH
    length = options.length or min(LENGTH, longest, len(tokens))
    num = len(tokens) // length
    if num == 0 or length > longest:
        msg = (
            f"{options.text} has {len(tokens)} tokens and the model takes {longest} at once: "
            f"examples of {length} cannot be made. Give a longer text, or --length."
        )
        raise ValueError(msg)
    rows = tokens[: num * length].view(num, length)
    batches = [{"input_ids": part, "labels": part} for part in rows.split(_rows(length))]
    remark(f"{num} examples of {length} tokens of {options.text}, in {len(batches)} batches")
    return Problem(model, data=batches, shard=launched() > 1)


def _rows(length: int) -> int:
    return max(1, TOGETHER // length)


def _model(folder: Path) -> Any:
    """The model in float32, without a cache of keys.

    Raises:
        ValueError: if the folder holds none.
        RuntimeError: if transformers is not installed.
    """
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        msg = "--hf needs transformers: pip install transformers."
        raise RuntimeError(msg) from error
    import torch

    if not (folder / "config.json").is_file():
        msg = f"{folder} holds no model of transformers: there is no config.json in it."
        raise ValueError(msg)
    asked = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32}
    try:
        model = AutoModelForCausalLM.from_pretrained(str(folder), **asked)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        msg = f"the model in {folder} cannot be read: {first[0]}"
        raise ValueError(msg) from error
    model.config.use_cache = False
    return model.eval()


def _tokens(folder: Path, model: Any, text: Path) -> Any:
    """The tokens of the text, by the tokenizer of the folder; bytes, where there is none.

    Raises:
        ValueError: if the model knows fewer tokens than there are.
    """
    import torch
    from transformers import AutoTokenizer

    vocabulary = int(model.config.vocab_size)
    if any(folder.glob("tokenizer*")):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        content = text.read_text(encoding="utf-8", errors="replace")
        tokens = torch.tensor(tokenizer(content, verbose=False)["input_ids"])
    else:
        remark(f"{folder} has no tokenizer: each byte of {text} is a token")
        tokens = torch.tensor(list(text.read_bytes()))
    if len(tokens) and int(tokens.max()) >= vocabulary:
        msg = (
            f"the text has token {int(tokens.max())}, and the model knows {vocabulary}: the "
            "tokenizer belongs to another model, or none is in the folder."
        )
        raise ValueError(msg)
    return tokens
