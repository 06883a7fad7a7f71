"""`hesscope init`: a target to begin with, from what a training script or a model folder says.

Nothing of the user's is run: a script is read as source, a folder by its config.json.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

LOSSES = ("Loss", "cross_entropy", "mse_loss", "nll_loss", "binary_cross_entropy")
FUNCTION = "make_problem"
NEEDED = ("import torch", "from torch import nn")
WEIGHTS = 'model.load_state_dict(torch.load("checkpoint.pt", weights_only=True))'

HEAD = '''"""What hesscope looks at: `hesscope check {name}:{function}`, then `diagnose`.

{function} returns hs.Problem(model, loss_fn, data). Its numbers are those of the weights that the
model has when it is returned, and of the data that it is given: a few hundred examples are enough
to begin with.
"""
'''

PLAIN = '''
import torch
from torch import nn

import hesscope as hs


def {function}() -> hs.Problem:
    """A small network on random data: put your own in its place."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 3))
    # model.load_state_dict(torch.load("checkpoint.pt", weights_only=True))

    inputs, labels = torch.randn(256, 8), torch.randint(3, (256,))
    data = [(inputs, labels)]  # a list of batches, or your DataLoader

    # A loss that averages over its batch: hesscope averages over batches.
    return hs.Problem(model, nn.CrossEntropyLoss(), data)
'''

SCRIPT = '''
from itertools import islice

{imports}

import hesscope as hs
{classes}

def {function}() -> hs.Problem:
    """The model, the loss and the data of {source}."""
    torch.manual_seed(0)
{lines}
    return hs.Problem(model, loss_fn, batches)
'''

FOLDER = '''
import torch
from transformers import AutoTokenizer, {architecture}

import hesscope as hs

FOLDER = {folder!r}
TEXTS = ["Put a few hundred texts of the kind that the model is trained on in this list."]


def {function}() -> hs.Problem:
    """The model computes its own loss, so that no loss function is needed."""
    model = {architecture}.from_pretrained(FOLDER)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    batches = []
    for start in range(0, len(TEXTS), 8):
        texts = TEXTS[start : start + 8]
        batch = tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
{labels}
        batches.append(dict(batch))
    return hs.Problem(model, data=batches)
'''
SAME = """\
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)"""
OTHER = """\
        # What {architecture} is trained to give, one row for each of the texts:
        batch["labels"] = torch.zeros(len(batch["input_ids"]), dtype=torch.long)"""


def add_init_arguments(parser: argparse.ArgumentParser) -> None:
    """What to begin with, and where to write."""
    parser.add_argument("source", type=Path, nargs="?", help="a training script, or a model folder")
    parser.add_argument("--to", type=Path, default=Path("hesscope_target.py"), metavar="FILE.py")


def write_target(source: Path | None, to: Path) -> list[str]:
    """Writes the target, and says what comes next.

    Raises:
        ValueError: if the source is neither, or cannot be read.
        RuntimeError: if there is such a file already, or it cannot be written.
    """
    if to.suffix != ".py" or not to.stem.replace("-", "_").isidentifier():
        msg = f"{to} has to be the name of a Python file, such as hesscope_target.py."
        raise ValueError(msg)
    if source is None:
        text, told = PLAIN.format(function=FUNCTION), ["a small network stands for yours"]
    elif source.is_dir():
        text, told = _of_folder(source)
    elif not source.exists():
        msg = f"{source}: No such file or folder (looked from {Path.cwd()})."
        raise ValueError(msg)
    else:
        text, told = _of_script(source)
        if source.resolve().parent != to.resolve().parent:
            told.append(f"it imports {source.name}: move it to {source.resolve().parent}")
    try:
        with to.open("x", encoding="utf-8") as file:
            file.write(HEAD.format(name=to.name, function=FUNCTION) + text)
    except FileExistsError as error:
        msg = f"{to} is there already; remove it, or choose another place by --to."
        raise RuntimeError(msg) from error
    except OSError as error:
        msg = f"cannot write {to}: {error.strerror}. Choose another place by --to."
        raise RuntimeError(msg) from error
    return [f"written: {to}", *told, f"next: hesscope check {to}:{FUNCTION}"]


def _of_folder(folder: Path) -> tuple[str, list[str]]:
    """A target for the folder of a model of transformers.

    Raises:
        ValueError: if it is none.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architecture = str(config["architectures"][0])
        if not architecture.isidentifier():
            raise ValueError(architecture)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        msg = (
            f"{folder} is no folder of a transformers model: its config.json names no "
            "architecture. Give such a folder, or the script that trains the model."
        )
        raise ValueError(msg) from error
    words = "CausalLM" in architecture or "LMHead" in architecture
    labels = SAME if words else OTHER.format(architecture=architecture)
    text = FOLDER.format(
        architecture=architecture, folder=str(folder), function=FUNCTION, labels=labels
    )
    return text, [f"model: {architecture}; put texts of yours into TEXTS"]


@dataclass
class _Found:
    """What a training script says of itself, as source text."""

    classes: list[str] = field(default_factory=list)  # its own modules
    makes: list[str] = field(default_factory=list)  # expressions that make one of them
    losses: list[str] = field(default_factory=list)
    loaders: list[str] = field(default_factory=list)
    imports: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)  # name -> the expression that it is set to
    known: set[str] = field(
        default_factory=set
    )  # names that need no value: imported, own, Python's
    guarded: bool = False  # whether importing it trains nothing


def _of_script(script: Path) -> tuple[str, list[str]]:
    """A target for a training script.

    Raises:
        ValueError: if it cannot be read, or is no Python.
    """
    if not script.stem.isidentifier():
        msg = f"{script} cannot be imported under its name; rename it, train.py for example."
        raise ValueError(msg)
    try:
        tree = ast.parse(script.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        where = f" in line {error.lineno}" if isinstance(error, SyntaxError) else ""
        cause = getattr(error, "strerror", None) or getattr(error, "msg", None) or str(error)
        msg = (
            f"cannot read {script} as Python: {cause}{where}. Give a training script or a model "
            "folder."
        )
        raise ValueError(msg) from error
    found = _looked_through(tree)
    told = [f"from {script.name}: {_said(found)}"]
    own = sorted({*found.classes, *(name for name in _defined(tree) if _is_used(name, found))})
    classes = f"\nfrom {script.stem} import {', '.join(own)}\n" if own else ""
    if own and not found.guarded:
        told.append(
            f"careful: importing {script.name} runs what stands outside of its functions; move "
            'the training under `if __name__ == "__main__":`'
        )
    lines, unknown = _lines(found, script.name)
    if unknown:
        told.append(f"to be set by you: {', '.join(unknown)}")
    imports = "\n".join(dict.fromkeys([*NEEDED, *found.imports]))
    parts = {"imports": imports, "classes": classes, "lines": "\n".join(lines)}
    return SCRIPT.format(source=script.name, function=FUNCTION, **parts), told


def _looked_through(tree: ast.Module) -> _Found:
    found = _Found()
    found.classes = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any("Module" in ast.unparse(b) for b in node.bases)
    ]
    tops = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    found.imports = [ast.unparse(node) for node in tops if "__future__" not in ast.unparse(node)]
    names = [(one.asname or one.name).partition(".")[0] for node in tops for one in node.names]
    found.known = {*names, *_defined(tree), *dir(builtins)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.values.setdefault(node.targets[0].id, ast.unparse(node.value))
    runs = (ast.Expr, ast.For, ast.While, ast.With, ast.Try)
    docs = [node for node in tree.body if _is_text(node)]
    found.guarded = not any(isinstance(node, runs) and node not in docs for node in tree.body)
    for call in _calls(tree):
        name, text = ast.unparse(call.func).rpartition(".")[2], ast.unparse(call)
        if name in found.classes:
            found.makes.append(text)
        elif name == "DataLoader":
            found.loaders.append(text)
        elif name.endswith(LOSSES):
            made = text if name.endswith("Loss") else ast.unparse(call.func)
            found.losses.append(made)
    return found


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _calls(tree: ast.Module) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _said(found: _Found) -> str:
    return (
        f"model {_first(found.makes, _first(found.classes, 'not found'))}, "
        f"loss {_first(found.losses, 'not found')}, data {_first(found.loaders, 'not found')}"
    )


def _defined(tree: ast.Module) -> list[str]:
    """Functions and classes of the script."""
    return [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]


def _is_used(name: str, found: _Found) -> bool:
    """Whether what is copied may need it."""
    copied = [*found.makes[:1], *found.losses[:1], *found.loaders[:1], *found.values.values()]
    return any(name in _names(text) for text in copied)


def _names(text: str) -> list[str]:
    """The names that an expression needs."""
    return [node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)]


def _lines(found: _Found, script: str) -> tuple[list[str], list[str]]:
    """The lines of the function, and the names whose values the script does not show."""
    lines: list[str] = []
    unknown: list[str] = []
    loss = _first(found.losses, "nn.CrossEntropyLoss()")
    wanted = {"model": _first(found.makes, ""), "loss_fn": loss}
    for name, text in (wanted | {"loader": _first(found.loaders, "")}).items():
        if text:
            _explain(text, found, script, {name}, (lines, unknown))
            lines.append(f"    {name} = {text}")
        else:
            unknown.append(name)
            lines.append(f"    {name} = ...  # as {script} makes it")
        lines += [f"    # {WEIGHTS}"] if name == "model" else []
    lines.append("    batches = list(islice(loader, 4))  # the first four")
    return lines, unknown


def _explain(
    text: str, found: _Found, script: str, seen: set[str], into: tuple[list[str], list[str]]
) -> None:
    """A line for each name that an expression needs, what that needs first."""
    lines, unknown = into
    for name in _names(text):
        if name in found.known or name in seen:
            continue
        seen.add(name)
        if name in found.values:
            _explain(found.values[name], found, script, seen, into)
            lines.append(f"    {name} = {found.values[name]}")
        else:
            unknown.append(name)
            lines.append(f"    {name} = ...  # as {script} sets it")


def _first(texts: list[str], otherwise: str) -> str:
    return texts[0] if texts else otherwise
