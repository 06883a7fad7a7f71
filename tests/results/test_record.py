"""Records come back bit for bit or not at all, and nothing in them is ever executed."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import pkgutil
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import hesscope as hs
from hesscope.results import record
from hesscope.results.basin import Basin, Walk
from hesscope.results.checkpoint_spectrum import CheckpointSpectrum, Overlap
from hesscope.results.convexity import ConvexityProbes
from hesscope.results.decomposition import ClassDecomposition, Decomposition
from hesscope.results.descent import Curvature, Descent
from hesscope.results.estimate import Diagonal
from hesscope.results.headline import Headline
from hesscope.results.layers import LayerMap, LayerStatistics, UnitStatistics
from hesscope.results.measurements import Measurements
from hesscope.results.paths import LossPath
from hesscope.results.record import RECORD, read_provenance
from hesscope.results.result import Result
from hesscope.results.saddles import IndexCurve
from hesscope.results.sampling import SamplingError, Shares
from hesscope.results.sanity import DataSummary, Neighbours, Predictions, TimeSignal, Trained
from hesscope.results.sharpness import Sharpness, SharpnessComparison, SharpnessMeasure
from hesscope.results.slices import Directions, Slice
from hesscope.results.smoothness import Smoothness
from hesscope.results.step import Step
from hesscope.system.contents import as_bytes

AWKWARD = torch.tensor([math.inf, -math.inf, math.nan, -0.0, 5e-324, 1 / 3], dtype=torch.float64)
CERTIFICATE = hs.Certificate(-math.inf, math.inf, 1e-3, True, False, 1e-3, "λ ≤ 3 „sicher“")
OVERLAP = Overlap(AWKWARD, 0.1, math.nan, 1.0)
UNITS = UnitStatistics("größe", "ReLU 1", 4, (0, 3), 1, 0, math.nan, 9.0, True)
SIGNAL = hs.Signal("größe", "λmax", 3, math.inf, 1.0)
DIRECTIONS = Directions(
    torch.ones(4, 2), ("größe", "b"), "1 „Schritt“", AWKWARD[:2], None, AWKWARD.view(3, 2), 3
)
LINE = hs.LossLine(AWKWARD, AWKWARD.flip(0), 1.0, 0.5, 0.0, 0.0, 2.0, 6, {}, "fixed", (0.0, 1.5))
MEASURE = SharpnessMeasure("größe", math.nan, math.inf, "unknown", "1/θ²", "nichts", "weil")
WALK = Walk("größe", "flat", AWKWARD, AWKWARD.view(3, 2), math.inf, 0.0, -0.0, math.nan)
RESULTS = {
    "walk": WALK,
    "basin": Basin(
        0.5, 0.1, 9.0, 1e-9, (WALK,), 1e-3, hs.Interval(0, 3), ("ö",), 1, 4, 2, 3, {"n": 4}
    ),
    "measure": MEASURE,
    "sharpness": Sharpness(0.5, (MEASURE, MEASURE), math.inf, 1, 2, 3, {"n": 4}),
    "compared": hs.Compared("λmax", (hs.Interval(-math.inf, 0.5), hs.Interval(1, 2))),
    "side by side": hs.Comparison(
        ("größe", "b"), (hs.Compared("κ", (hs.Interval(1, 2), hs.Interval(1, math.inf))),), None
    ),
    "comparison": SharpnessComparison(False, (1.0, math.nan), 0.5, ("a",), (math.inf,), (-0.0,)),
    "path": LossPath(
        LINE, None, LINE, "chain", torch.ones(2, 3), AWKWARD[:3], ("ö",), AWKWARD, 6, {"n": 3}
    ),
    "directions": DIRECTIONS,
    "slice": Slice(
        (AWKWARD, AWKWARD[:2]),
        AWKWARD.expand(2, 6).T.clone(),
        math.nan,
        DIRECTIONS,
        None,
        AWKWARD[:4].view(2, 2),
        hs.Estimate(0.5, math.inf),
        None,
        "fixed",
        None,
        9,
        3,
        {"n": 4},
    ),
    "certificate": CERTIFICATE,
    "check": hs.Check((hs.Finding("a", "b", "c", fault=False),), 5, ("x", "y")),
    "check without findings": hs.Check(()),
    "pairs": hs.Eigenpairs(
        eigenvalues=AWKWARD,
        eigenvectors=torch.randn(4, 6, generator=torch.Generator().manual_seed(0)),
        residuals=AWKWARD.flip(0),
        converged=torch.tensor([True, False] * 3),
        num_matvecs=3,
        certificate=CERTIFICATE,
        which="BE",
        seed=2**62,
        notes=("one", "zwei – drei"),
        facts={"schichten.größe weights/0": [1, 2.5, None, True], "inner": {"t": AWKWARD}},
    ),
    "empty pairs": hs.Eigenpairs(
        torch.zeros(0), torch.zeros(3, 0), torch.zeros(0), torch.zeros(0).bool(), 0, CERTIFICATE
    ),
    "estimate": hs.Estimate(math.nan, math.inf, 7),
    "finding": hs.Finding("naïve", "原因", "→ cure"),
    "interval": hs.Interval(-math.inf, 0.1 + 0.2, 0.95),
    "spectrum": hs.Spectrum(AWKWARD, 1e-300, 6, 0.0, {"dtype": "torch.float64"}),
    "escape": hs.Escape(
        True,
        AWKWARD,
        AWKWARD.flip(0),
        -1.0,
        math.inf,
        0.0,
        math.nan,
        2.0,
        3.0,
        -0.0,
        math.inf,
        1e-16,
        CERTIFICATE,
        9,
        1,
        7,
        {"n": 6},
    ),
    "loss line": hs.LossLine(
        AWKWARD, AWKWARD.flip(0), math.inf, 0.5, math.nan, 0.0, 2.0, 6, {"n": 3}
    ),
    "outliers": hs.outliers(torch.tensor([9.0, 8.0, 2.0, 1.9, -0.1]), 3, classes=torch.ones(2)),
    "index curve": IndexCurve(AWKWARD, AWKWARD.flip(0), 0.5, math.inf, 2.0, 1e-9, 0.0, math.nan),
    "verdict": hs.Verdict("step size", "large", {"2/λ": 0.1, "nan": math.nan}, ("a",), "proven"),
    "shares": Shares(AWKWARD[:, None], None, AWKWARD, 2.5),
    "sampling error": SamplingError(
        AWKWARD, AWKWARD.flip(0), AWKWARD, AWKWARD, 1e3, 33, 3, Shares(torch.ones(2, 1)), ("x",)
    ),
    "density": hs.spectral_density(hs.as_operator(torch.diag(torch.arange(40.0))), 20),
    "conditioning": hs.conditioning(hs.as_operator(torch.diag(torch.arange(3.0))), dampings=[1.0]),
    "diagonal": Diagonal(AWKWARD, 0.5, 8),
    "smoothness": Smoothness(
        "größe",
        0.5,
        -0.0,
        math.nan,
        AWKWARD,
        AWKWARD,
        AWKWARD,
        AWKWARD,
        AWKWARD,
        ("Relu",),
        15,
        1,
        {},
    ),
    "convexity": ConvexityProbes(
        0.5, AWKWARD, AWKWARD, AWKWARD, AWKWARD, AWKWARD, AWKWARD.flip(0), 40, 5, 1e-3, {"n": 6}
    ),
    "units": UNITS,
    "layer statistics": LayerStatistics(
        tuple("abcdef"),
        (1, 2, 3, 4, 5, 6),
        AWKWARD,
        AWKWARD,
        AWKWARD,
        AWKWARD,
        (0, -1),
        (True, False),
        None,
        (UNITS, UNITS),
        5,
        (1, 4),
        ("a.w",),
        (),
        ("b.w",),
        1 / 3,
    ),
    "layer map": LayerMap(
        tuple("abcdef"),
        (1, 2, 3, 4, 5, 6),
        AWKWARD,
        AWKWARD,
        AWKWARD,
        AWKWARD,
        AWKWARD,
        AWKWARD,
        7,
        False,
    ),
    "decomposition": Decomposition(AWKWARD, AWKWARD, AWKWARD, 3, ("größe",), AWKWARD, None),
    "classes": ClassDecomposition(1.0, 0.5, 0.25, -0.0, AWKWARD, AWKWARD, AWKWARD, None, 2.5),
    "curvature": Curvature(2.0, 0.0, -1.0, 1e-9, -math.inf, math.inf, 1e-12, 0.001),
    "descent": Descent(1.0, math.nan, 1e-12),
    "step": Step(1.0, 2.0, 3.0, 0.0, lr=0.5, optimizer="Größe"),
    "measurements": Measurements({"loss": 0.5, "t": AWKWARD}, {"step": "why"}, {"lr": None}),
    "examination": hs.Examination((hs.Verdict("a", "b"),), Measurements({"loss": math.nan})),
    "headline": Headline("größe", "layers", "", "measured", ("a",), (), "b", ("c",)),
    "predictions": Predictions(3, math.inf, 0.0, math.nan, 0.5, -0.0, True),
    "data summary": DataSummary(
        3, 0, math.nan, 1.0, True, False, 2.0, True, 1, -1, 0.5, 0.1, False
    ),
    "neighbours": Neighbours(9, 3, (1, 2)),
    "trained": Trained("größe", ("a",), (), 3, math.nan),
    "time signal": TimeSignal("größe", 3, math.inf, 0.0, 5e-324),
    "forecast": hs.Forecast(40, 90.5, 1e-3, 2**40, 7, "quick"),
    "semicircle": hs.rmt.Semicircle(2.0),
    "Marchenko-Pastur": hs.rmt.MarchenkoPastur(0.5),
    "spike": hs.rmt.additive_spike(2.0),
    "critical step": hs.CriticalStep(0.5, math.inf, 0.1, -1.0, "Größe", 6, ((1.0, -0.5),)),
    "learning rate": hs.LearningRate(
        math.nan, "Größe", math.inf, 1.0, 0.5, "SGD", None, 3.0, ("ö",)
    ),
    "spectral penalty": hs.SpectralPenalty(torch.tensor(3.0), AWKWARD, math.nan, 5),
    "batch stability": hs.BatchStability(4, 0.1, math.inf, (0.2, 0.1), "SGD", 9.0, 0.5, 3, 6, 54.0),
    "series": hs.Series(torch.tensor([0, 7]), torch.tensor([1.0, math.nan]).double()),
    "event": hs.Event(7, "switched off", "größe"),
    "history": hs.History.of(
        {"loss": {0: 1.0, 7: math.inf}},
        events=(hs.Event(7, "not finite", "why"),),
        facts={"optimizer": None},
        results={"trace": {7: hs.Estimate(1.5, 0.25, 10)}},
    ),
    "post-mortem": hs.Postmortem(
        "spike", 3, 7, (SIGNAL,), (hs.Verdict("a", "b"),), hs.History.of({"loss": {0: 1.0}})
    ),
    "signal": SIGNAL,
    "solution": hs.Solution(
        AWKWARD,
        AWKWARD,
        AWKWARD,
        AWKWARD > 0,
        AWKWARD,
        1e-5,
        0.1,
        "minres",
        7,
        -math.inf,
        -0.5,
        AWKWARD,
        ((1.0, math.nan), ()),
        ("größe",),
    ),
    "influence": hs.Influence(
        AWKWARD.view(3, 2), 0.1, "größe", "Hessian", AWKWARD, 0.5, 0.0, 9, ("why",)
    ),
    "overlap": OVERLAP,
    "checkpoint": CheckpointSpectrum(
        "größe.pt",
        AWKWARD,
        AWKWARD,
        AWKWARD > 0,
        CERTIFICATE,
        math.inf,
        7,
        0.5,
        OVERLAP,
        "vorher.pt",
        hs.Estimate(1.5, 0.25, 10),
        hs.Interval(0.0, 2.0),
        12,
        "ab",
        "cd",
    ),
    "half precision": {"bf16": torch.ones(3).bfloat16() / 3, "f16": torch.ones(()).half() / 3},
    "colliding paths": {"a.b": AWKWARD, "a": {"b": AWKWARD + 1}, "a.b#1": AWKWARD * 2},
    "one storage twice": [AWKWARD[:3], AWKWARD[:3], AWKWARD[1:], AWKWARD.expand(2, 6).T],
}


def assert_identical(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        raw = [as_bytes(x).tolist() for x in (a, b)]
        assert raw[0] == raw[1]
    elif dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            assert_identical(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for name in a:
            assert_identical(a[name], b[name])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_identical(x, y)
    else:
        assert repr(a) == repr(b)


# --- round trips


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_comes_back_bit_for_bit(name, tmp_path):
    folder = hs.save(RESULTS[name], tmp_path)
    assert folder == tmp_path
    assert_identical(hs.load(folder), RESULTS[name])


def test_every_kind_of_result_is_tested():
    for module in pkgutil.walk_packages(hs.__path__, "hesscope."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    own = {kind for kind in Result.kinds.values() if kind.__module__.startswith("hesscope.")}
    assert own == {type(result) for result in RESULTS.values() if isinstance(result, Result)}


def test_every_kind_of_result_is_read_by_a_process_that_has_made_none(tmp_path):
    kinds = {type(result).__name__: result for result in RESULTS.values()}
    for name, result in kinds.items():
        hs.save(result, tmp_path / name)
    code = (
        "import sys, pathlib, hesscope as hs\n"
        "for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    print(folder.name, type(hs.load(folder)).__name__)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    told = [line.split() for line in run.stdout.splitlines()]
    assert told == [[name, name] for name in sorted(kinds)]


def test_a_measured_result_comes_back(tmp_path):
    pairs = hs.eigsh(hs.as_operator(torch.diag(torch.arange(9.0))), 3)
    assert_identical(hs.load(hs.save(pairs, tmp_path)), pairs)


@pytest.mark.parametrize("name", ["with space", "größe – λ", "日本", "a/b/c", "it's [x] *"])
def test_folders_have_any_name_and_are_made(name, tmp_path):
    folder = hs.save(RESULTS["pairs"], str(tmp_path / name))
    assert_identical(hs.load(str(folder)), RESULTS["pairs"])


def test_saving_again_replaces_the_record_and_leaves_nothing_behind(tmp_path):
    for result in (RESULTS["pairs"], RESULTS["spectrum"], RESULTS["estimate"]):
        hs.save(result, tmp_path)
        assert_identical(hs.load(tmp_path), result)
        assert len(list(tmp_path.iterdir())) == 2


def test_where_the_numbers_come_from_is_recorded(tmp_path):
    provenance = read_provenance(hs.save(RESULTS["estimate"], tmp_path))
    assert provenance["torch"] == torch.__version__
    assert provenance["hesscope"] == hs.__version__
    assert set(provenance) >= {"python", "machine", "threads", "created"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", provenance["created"])


# --- damage


def saved(folder: Path) -> tuple[Path, Path]:
    hs.save({"result": RESULTS["spectrum"], "name": "größe"}, folder)
    (arrays,) = folder.glob("arrays-*.safetensors")
    return folder / RECORD, arrays


@pytest.mark.parametrize("which", [0, 1])
def test_one_flipped_bit_anywhere_is_refused(which, tmp_path):
    path = saved(tmp_path)[which]
    good = path.read_bytes()
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 << (at % 8)
        path.write_bytes(bad)
        with pytest.raises((RuntimeError, ValueError)):
            hs.load(tmp_path)
    path.write_bytes(good)
    hs.load(tmp_path)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused(which, share, tmp_path):
    path = saved(tmp_path)[which]
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    message = "is damaged" if which == 0 else r"checksum differs\): it is truncated, damaged or"
    with pytest.raises(RuntimeError, match=message):
        hs.load(tmp_path)


def test_missing_arrays_are_refused(tmp_path):
    saved(tmp_path)[1].unlink()
    with pytest.raises(RuntimeError, match="checksum differs"):
        hs.load(tmp_path)


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        hs.load(tmp_path / "none")
    expected = (
        f"{tmp_path / 'none'} holds no record.json; give a folder that `hesscope ... --save` has "
        "written."
    )
    assert str(caught.value) == expected


def rewritten(folder: Path, **parts) -> None:
    """The record with other parts and a digest that fits them."""
    path = saved(folder)[0]
    content = {**json.loads(path.read_text(encoding="utf-8")), **parts}
    content["sha256"] = record._digest(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_newer_schema_is_refused_with_the_way_to_upgrade(tmp_path):
    rewritten(tmp_path, schema=2)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        hs.load(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} has schema 2, this hesscope reads up to 1: "
        "upgrade with `pip install -U hesscope`."
    )


def test_a_file_of_another_program_is_refused(tmp_path):
    for content in ('{"format": "other"}', "[]", "3"):
        (tmp_path / RECORD).write_text(content)
        with pytest.raises(ValueError, match="was not written by hesscope; give a folder that"):
            hs.load(tmp_path)


def test_an_unknown_class_is_refused_even_if_python_knows_it(tmp_path):
    rewritten(tmp_path, result={"class": "Popen", "fields": {}})
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        hs.load(tmp_path)
    expected = (
        "the record holds a 'Popen', which this version of hesscope does not know. If it is a "
        "class of your own, import it before you load."
    )
    assert str(caught.value) == expected


def test_a_changed_record_is_refused(tmp_path):
    path = saved(tmp_path)[0]
    path.write_text(path.read_text(encoding="utf-8").replace("größe", "grösse"), encoding="utf-8")
    with pytest.raises(RuntimeError) as caught:
        hs.load(tmp_path)
    expected = f"{path} was changed after it was written (checksum differs). Save again."
    assert str(caught.value) == expected


# --- what cannot be saved


@dataclasses.dataclass(frozen=True)
class Foreign:
    value: int = 1


@pytest.mark.parametrize(
    ("result", "where", "kind"),
    [
        (Foreign(), "result", "Foreign"),
        ({"a": [1, print]}, "result.a.1", "builtin_function_or_method"),
        ((torch.float64,), "result.0", "dtype"),
        ({1, 2}, "result", "set"),
        (hs.Spectrum, "result", "type"),
    ],
)
def test_what_is_no_data_is_refused_with_its_place(result, where, kind, tmp_path):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        hs.save(result, tmp_path / "out")
    expected = f"cannot save {where}, a {kind}; results hold numbers, text and tensors."
    assert str(caught.value) == expected
    assert not (tmp_path / "out").exists()


def test_a_result_of_ones_own_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(Result, "kinds", dict(Result.kinds))

    @dataclasses.dataclass(frozen=True)
    class Own(Result):
        value: int = 1

    assert hs.load(hs.save(Own(7), tmp_path)) == Own(7)


def test_two_results_of_one_name_are_refused(monkeypatch):
    monkeypatch.setattr(Result, "kinds", dict(Result.kinds))
    with pytest.raises(TypeError, match="has the name of the result"):
        type("Estimate", (Result,), {})


def test_a_folder_that_cannot_be_written_is_named_with_the_bytes_needed(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError) as caught:
        hs.save(RESULTS["estimate"], tmp_path / "file" / "out")
    assert re.fullmatch(
        rf"cannot write \d+ bytes to {re.escape(str(tmp_path))}/file/out: Not a directory. "
        "Choose another folder.",
        str(caught.value),
    )


def test_a_full_disk_keeps_the_old_record(tmp_path, monkeypatch):
    hs.save(RESULTS["spectrum"], tmp_path)

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RuntimeError, match="No space left on device"):
        hs.save(RESULTS["pairs"], tmp_path)
    assert_identical(hs.load(tmp_path), RESULTS["spectrum"])
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RuntimeError, match="Permission denied"):
        hs.save(RESULTS["estimate"], tmp_path)


# --- crashes

SAVE_FOREVER = """
import sys, torch, hesscope as hs
print("ready", flush=True)
i = 0
while True:
    i += 1
    values = torch.full((20_000,), float(i), dtype=torch.float64)
    hs.save({"i": i, "values": values}, sys.argv[1])
"""


def test_a_crash_at_each_step_of_a_save_leaves_the_old_record_or_the_new(tmp_path, monkeypatch):
    """SIGKILL between any two operations on files, made exact by an exception in their place."""
    old, new = RESULTS["spectrum"], RESULTS["pairs"]
    seen = []
    for steps in range(20):
        folder = tmp_path / str(steps)
        hs.save(old, folder)
        left = [steps]

        class Killed(BaseException):
            pass

        def counted(function, left=left, killed=Killed):
            def call(*args, **kwargs):
                if left[0] == 0:
                    raise killed
                left[0] -= 1
                return function(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for name in ("replace", "unlink"):
                patch.setattr(Path, name, counted(getattr(Path, name)))
            patch.setattr(os, "fsync", counted(os.fsync))
            try:
                hs.save(new, folder)
                finished = True
            except Killed:
                finished = False
        found = hs.load(folder)
        seen.append(type(found))
        assert_identical(found, new if type(found) is type(new) else old)
        if finished:
            break
    assert finished
    assert seen == sorted(seen, key=lambda kind: kind is type(new))
    assert {type(old), type(new)} == set(seen)


def test_a_killed_process_leaves_the_old_record_or_the_new_thirty_times(tmp_path):
    generator = random.Random(0)
    last = 0
    script = [sys.executable, "-c", SAVE_FOREVER, str(tmp_path)]
    with subprocess.Popen(script, stdout=subprocess.PIPE) as first:
        first.stdout.readline()
        while not (tmp_path / RECORD).exists():
            time.sleep(0.01)
        # The process is stopped at random moments: what lies there then is what SIGKILL leaves.
        for _ in range(29):
            time.sleep(generator.uniform(0.002, 0.02))
            first.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WNOWAIT)
            found = hs.load(tmp_path)
            assert bool((found["values"] == float(found["i"])).all())
            assert found["i"] >= last
            last = found["i"]
            first.send_signal(signal.SIGCONT)
        first.kill()
    assert hs.load(tmp_path)["i"] >= last > 1


# --- malice


def test_no_module_unpickles_or_evaluates():
    """`pickle.UnpicklingError` may be caught where `torch.load(weights_only=True)` raises it."""
    source = Path(hs.__file__).parent
    forbidden = re.compile(
        r"\bpickle\.(?!UnpicklingError)|\bfrom pickle|\b(import|from) (dill|joblib|shelve|marshal)"
        r"|(?<![\w.])(eval|exec)\(|torch\.load\((?!.*weights_only=True)|yaml\.load\("
    )
    found = {
        f"{path.relative_to(source)}: {line.strip()}"
        for path in source.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if forbidden.search(line) and not line.lstrip().startswith(("#", '"""'))
    }
    assert found == set()
