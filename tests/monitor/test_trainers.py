"""The callbacks of trainers: with stand-ins always, with the real libraries where they are."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import hesscope as hs

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
CLIP = 0.05


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))


def _problem(model: nn.Module) -> hs.Problem:
    return hs.Problem(model, nn.CrossEntropyLoss(), (X[:32], Y[:32]))


def _installed(*names: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in names)


class Logger:
    def __init__(self) -> None:
        self.steps: list[int] = []

    def log_metrics(self, numbers: dict[str, float], step: int | None = None) -> None:
        if any(name.startswith("hesscope/") for name in numbers):
            self.steps.append(int(step or 0))


# The optimiser's hook where a closure makes the gradient


def _losses(how: str, watched: bool) -> tuple[list[Tensor], hs.History | None]:
    model = _network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    monitor = hs.Monitor(_problem(model), optimizer, every=1) if watched else None

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(X), Y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        return loss

    losses = []
    for _ in range(4):
        loss = optimizer.step(closure) if how == "position" else optimizer.step(closure=closure)
        losses.append(loss.detach())
    ends = [*losses, *(p.detach() for p in model.parameters())]
    return ends, monitor.history if monitor else None


@pytest.mark.parametrize("how", ["position", "name"])
def test_a_gradient_that_a_closure_makes_is_the_one_that_is_seen(how: str) -> None:
    plain, _ = _losses(how, watched=False)
    seen, history = _losses(how, watched=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, seen, strict=True))
    assert history is not None
    assert not history.events
    assert history["training_gradient_norm"].values.tolist() == pytest.approx([CLIP] * 4, rel=1e-4)
    changed = history["loss"].values.diff()
    assert history["measured_change"].values[:-1].tolist() == pytest.approx(
        changed.tolist(), rel=1e-3
    )


def test_a_closure_that_is_called_many_times_is_one_step() -> None:
    model = _network().double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)
    problem = hs.Problem(model, nn.CrossEntropyLoss(), (X.double(), Y))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(X.double()), Y)
        loss.backward()
        return loss

    with hs.Monitor(problem, optimizer, every=1, quantities=["loss"]) as monitor:
        losses = [optimizer.step(closure).item() for _ in range(3)]
    assert monitor.history["loss"].steps.tolist() == [0, 1, 2]
    assert monitor.history["loss"].values.tolist() == pytest.approx(losses, rel=1e-9)


# Stand-ins: what a callback does is told by its hooks alone


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in (("pytorch_lightning", "Callback"), ("transformers", "TrainerCallback")):
        module = ModuleType(name)
        setattr(module, kind, type(kind, (), {"on_epoch_begin": lambda *_, **__: None}))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "lightning.pytorch", raising=False)


def _trainer(model: nn.Module, step: int = 0, optimizers: int = 1) -> Any:
    made = [torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(optimizers)]
    return SimpleNamespace(
        optimizers=made, global_step=step, loggers=[Logger()], accumulate_grad_batches=2
    )


def _lightning_steps(callback: Any, trainer: Any, model: nn.Module, steps: int) -> list[float]:
    """As Lightning does it: two batches for each step, losses divided by two."""
    losses = []
    for _ in range(steps):
        means = []
        trainer.optimizers[0].zero_grad()
        for part in (slice(0, 16), slice(16, 32)):
            loss = cross_entropy(model(X[part]), Y[part])
            (loss / 2).backward()
            means.append(loss.item())
            if part.start:
                trainer.optimizers[0].step()
                trainer.global_step += 1
            callback.on_train_batch_end(trainer, model, {"loss": (loss / 2).detach()}, None, 0)
        losses.append(sum(means) / 2)
    return losses


@pytest.mark.usefixtures("stand_ins")
def test_lightning_losses_steps_and_loggers(tmp_path: Path) -> None:
    model = _network()
    callback = hs.monitor.LightningMonitor(_problem, every=2, to=tmp_path)
    assert isinstance(callback, hs.monitor.LightningMonitor)
    assert isinstance(callback, sys.modules["pytorch_lightning"].Callback)
    assert len(callback.history) == 0
    trainer = _trainer(model)
    callback.on_train_start(trainer, model)
    losses = _lightning_steps(callback, trainer, model, 5)
    callback.on_train_end(trainer, model)
    assert callback.history["lambda_max"].steps.tolist() == [0, 2, 4]
    assert callback.history["train_loss"].steps.tolist() == [0, 1, 2, 3, 4]
    assert callback.history["train_loss"].values.tolist() == pytest.approx(losses, rel=1e-6)
    assert trainer.loggers[0].steps == [0, 2, 4]
    trainer.optimizers[0].step()
    assert len(callback.history["lambda_max"]) == 3  # it no longer watches


@pytest.mark.usefixtures("stand_ins")
def test_a_resumed_training_goes_on_at_its_step(tmp_path: Path) -> None:
    model = _network()
    for began, steps in ((0, 6), (4, 4), (0, 2)):
        callback = hs.monitor.LightningMonitor(
            _problem(model), every=2, to=tmp_path, quantities=["loss"]
        )
        trainer = _trainer(model, began)
        callback.on_train_start(trainer, model)
        _lightning_steps(callback, trainer, model, steps)
        callback.on_exception(trainer, model, KeyboardInterrupt())
    history = hs.load(tmp_path)
    assert history["loss"].steps.tolist() == [0, 2, 4, 6, 8]
    assert history["train_loss"].steps.tolist() == list(range(10))  # a new run is put after it


@pytest.mark.usefixtures("stand_ins")
def test_hugging_face_steps_losses_and_history_of_logs() -> None:
    model = _network()
    callback = hs.monitor.HuggingFaceMonitor(_problem(model), every=1, quantities=["loss"])
    assert isinstance(callback, sys.modules["transformers"].TrainerCallback)
    state = SimpleNamespace(global_step=3, log_history=[])
    inside = torch.optim.SGD(model.parameters(), lr=0.1)
    parts = {"model": model, "optimizer": SimpleNamespace(optimizer=inside)}
    callback.on_train_begin(None, state, None, **parts)
    callback.on_epoch_begin(None, state, None, **parts)
    for _ in range(2):
        inside.zero_grad()
        cross_entropy(model(X), Y).backward()
        inside.step()
    callback.on_log(None, state, None, logs={"loss": 0.75, "lr": 0.1}, **parts)
    callback.on_log(None, state, None, logs={"eval_loss": 2.0}, **parts)
    callback.on_train_end(None, state, None, **parts)
    assert callback.history["loss"].steps.tolist() == [3, 4]
    assert [entry["step"] for entry in state.log_history] == [3, 4]
    assert state.log_history[0]["hesscope/loss"] == callback.history["loss"].values[0]
    assert callback.history["train_loss"].columns()["step"].tolist() == [4]
    assert callback.history["train_loss"].last == 0.75


@pytest.mark.usefixtures("stand_ins")
def test_what_cannot_be_watched_is_refused_by_name() -> None:
    model = _network()
    with pytest.raises(TypeError, match="unexpected keyword argument 'evry'"):
        hs.monitor.LightningMonitor(_problem(model), evry=1)
    callback = hs.monitor.LightningMonitor(_problem(copy.deepcopy(model)))
    with pytest.raises(ValueError, match="none of the parameters of the problem"):
        callback.on_train_start(_trainer(model), model)
    with pytest.raises(ValueError, match="has 2 optimisers"):
        callback.on_train_start(_trainer(model, optimizers=2), model)
    copied = copy.copy(callback)
    assert type(copied) is type(callback)


@pytest.mark.parametrize("kind", ["LightningMonitor", "HuggingFaceMonitor"])
def test_what_is_not_installed_is_named(kind: str) -> None:
    code = (
        "import importlib.util, hesscope as hs\n"
        "found = importlib.util.find_spec\n"
        "hidden = ('lightning', 'pytorch_lightning', 'transformers')\n"
        "importlib.util.find_spec = lambda name, *a: None if name in hidden else found(name, *a)\n"
        f"try: hs.monitor.{kind}(None)\n"
        "except RuntimeError as error: print(error)\n"
        "import sys; print([name for name in hidden if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told, loaded = out.stdout.strip().splitlines()
    assert f"{kind} needs " in told
    assert "pip install" in told
    assert loaded == "[]"


# The real libraries


@pytest.mark.skipif(
    not _installed("pytorch_lightning"), reason="pytorch-lightning is not installed"
)
@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_the_same_and_is_watched(tmp_path: Path) -> None:
    import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.losses = _network(), []

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, _index: int) -> Tensor:
            loss = cross_entropy(self(batch[0]), batch[1])
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    def run(callbacks: list[Any], steps: int, resume: str | None = None) -> tuple[Any, str]:
        trainer = pl.Trainer(
            accelerator="cpu", max_steps=steps, callbacks=callbacks, logger=False,
            gradient_clip_val=CLIP, accumulate_grad_batches=2, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        module = Module()
        data = DataLoader(TensorDataset(X, Y), batch_size=8)
        trainer.fit(module, data, ckpt_path=resume)
        end = str(tmp_path / f"{steps}.ckpt")
        trainer.save_checkpoint(end)
        return module, end

    logger, to = Logger(), tmp_path / "run"
    watch = hs.monitor.LightningMonitor(_problem, every=2, to=to, log=logger)
    plain, _ = run([], 4)
    seen, end = run([watch], 4)
    assert all(map(torch.equal, plain.state_dict().values(), seen.state_dict().values()))
    pairs = torch.tensor(seen.losses).reshape(-1, 2).mean(1)
    assert watch.history["train_loss"].values.tolist() == pytest.approx(pairs.tolist(), rel=1e-6)
    clipped = watch.history["training_gradient_norm"].values.tolist()
    assert clipped == pytest.approx([CLIP] * 2, rel=1e-4)
    assert not watch.history.events
    assert logger.steps == [0, 2]
    run([watch], 6, end)
    history = hs.load(to)
    assert history["lambda_max"].steps.tolist() == [0, 2, 4]
    assert history["train_loss"].steps.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.skipif(
    not _installed("transformers", "accelerate"), reason="transformers or accelerate is missing"
)
@pytest.mark.filterwarnings("ignore")
def test_the_trainer_of_transformers_trains_the_same_and_is_watched(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    tokens = torch.randint(0, 20, (32, 6), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    small = GPT2Config(vocab_size=20, n_positions=6, n_embd=8, n_layer=1, n_head=2)

    def language(model: nn.Module) -> hs.Problem:
        def loss(outputs: Any, batch: Any) -> Tensor:
            return cross_entropy(outputs.logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())

        return hs.Problem(model, loss, (tokens[:8], tokens[:8]))

    def run(callbacks: list[Any], steps: int, resume: str | None = None) -> Any:
        torch.manual_seed(0)
        given = TrainingArguments(
            output_dir=str(tmp_path / "out"), max_steps=steps, per_device_train_batch_size=4,
            gradient_accumulation_steps=2, max_grad_norm=CLIP, learning_rate=1e-2, use_cpu=True,
            logging_steps=2, save_steps=4, report_to=[], disable_tqdm=True, seed=1,
        )  # fmt: skip
        model = GPT2LMHeadModel(small)
        trainer = Trainer(model=model, args=given, train_dataset=rows, callbacks=callbacks)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    to = tmp_path / "run"
    watch = hs.monitor.HuggingFaceMonitor(language, every=2, to=to)
    plain, seen = run([], 4), run([watch], 4)
    ends = [trainer.model.state_dict().values() for trainer in (plain, seen)]
    assert all(map(torch.equal, *ends))
    assert watch.history["lambda_max"].steps.tolist() == [0, 2]
    clipped = watch.history["training_gradient_norm"].values.tolist()
    assert clipped == pytest.approx([CLIP] * 2, rel=1e-3)
    told = [entry["step"] for entry in seen.state.log_history if "hesscope/lambda_max" in entry]
    assert told == [0, 2]
    run([watch], 6, str(tmp_path / "out" / "checkpoint-4"))
    history = hs.load(to)
    assert history["lambda_max"].steps.tolist() == [0, 2, 4]
    logged = [entry["loss"] for entry in seen.state.log_history if "loss" in entry]
    assert history["train_loss"].values.tolist()[:2] == pytest.approx(logged)
    assert not history.events


@pytest.mark.skipif(not _installed("accelerate"), reason="accelerate is not installed")
@pytest.mark.filterwarnings("ignore")
def test_accelerate_steps_are_counted_where_it_makes_them() -> None:
    from accelerate import Accelerator

    model = _network()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, data = accelerator.prepare(
        model, optimizer, DataLoader(TensorDataset(X, Y), batch_size=8)
    )
    with hs.Monitor(_problem(model), optimizer, every=1) as monitor:
        for x, y in data:
            with accelerator.accumulate(model):
                accelerator.backward(cross_entropy(model(x), y))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
                optimizer.zero_grad()
    assert monitor.history["lambda_max"].steps.tolist() == [0, 1, 2, 3]
    norms = monitor.history["training_gradient_norm"].values.tolist()
    assert norms == pytest.approx([CLIP] * 4, rel=1e-4)
    assert not monitor.history.events
