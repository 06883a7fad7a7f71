"""--hf: a causal language model from a folder on the disk, without a target."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import hesscope as hs
from hesscope.cli.commands import main
from hesscope.cli.language_model import number_of

TEXT = "The quick brown fox jumps over the lazy dog. " * 12


def saved(folder: Path, vocabulary: int = 256) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": vocabulary}
    config = transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=1)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder / "model")
    (folder / "text.txt").write_text(TEXT)
    return folder / "model"


@pytest.mark.filterwarnings("ignore")  # of transformers
@pytest.mark.parametrize("product", ["auto", "lean"])
def test_bytes_of_a_text_are_its_tokens_where_there_is_no_tokenizer(product, tmp_path, capsys):
    folder = saved(tmp_path)
    command = ["spectrum", "--hf", str(folder), "--text", str(tmp_path / "text.txt"), "--json"]
    command += ["--tokens", "0.2k", "--length", "20", "--k", "2", "--seed", "0"]
    main([*command, "--product", product])
    out, err = capsys.readouterr()
    assert "10 examples of 20 tokens" in err
    assert "each byte" in err
    found = json.loads(out)
    expected = hs.eigsh(_hessian(folder), 2, seed=0)
    assert found["eigenvalues"] == pytest.approx(expected.eigenvalues.tolist(), rel=1e-3)
    assert found["facts"]["items"] == 10 * 19  # the first of each is predicted from nothing


def _hessian(folder: Path) -> hs.Hessian:
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(str(folder), use_cache=False)
    rows = torch.tensor(list(TEXT.encode())[:200]).view(10, 20)
    return hs.Hessian(hs.Problem(model.float().eval(), data=[{"input_ids": rows, "labels": rows}]))


@pytest.mark.filterwarnings("ignore")
def test_what_does_not_fit_is_told_in_a_sentence(tmp_path, capsys):
    folder, text = saved(tmp_path, vocabulary=100), str(tmp_path / "text.txt")
    told = {
        ("--hf", str(folder), "--text", text): "the model knows 100",
        ("--hf", str(folder)): "no --text is given",
        ("--hf", str(folder), "--text", "none.txt"): "there is no file none.txt",
        ("--hf", str(tmp_path), "--text", text): "there is no config.json in it",
        (): "give a target",
        ("job.py:make", "--text", text): "give a target",
        ("job.py:make", "--hf", str(folder), "--text", text): "give a target",
    }
    for arguments, sentence in told.items():
        assert main(["check", *arguments]) == 2
        err = capsys.readouterr().err
        assert sentence in err.splitlines()[-1]


def test_numbers_of_tokens():
    assert [number_of(text) for text in ("4000", "16k", "0.5k", "2M")] == [
        4000,
        16000,
        500,
        2000000,
    ]
    for text in ("k", "0", "many", "1.5", "-4"):
        with pytest.raises(Exception, match="is no number of tokens"):
            number_of(text)
