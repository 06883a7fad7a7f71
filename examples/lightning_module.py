"""A LightningModule with a line more: what has the curvature done, and was the lr right?"""

import pytorch_lightning as lightning
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import hesscope as hs


class Classifier(lightning.LightningModule):
    """A small network that computes its own loss, as Lightning has it."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))

    def training_step(self, batch, _):
        inputs, labels = batch
        return F.cross_entropy(self.net(inputs), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=4.0)


torch.manual_seed(0)
inputs = torch.randn(256, 8)
labels = (inputs @ torch.randn(8, 4)).argmax(1)
loader = DataLoader(TensorDataset(inputs, labels), batch_size=64)
watch = hs.monitor.LightningMonitor(
    lambda module: hs.Problem(module, data=[(inputs, labels)]), every=5, to="run/"
)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
trainer = lightning.Trainer(max_epochs=25, callbacks=[watch], accelerator="cpu", **quiet)
trainer.fit(Classifier(), loader)
history = hs.load("run/")
print("lr over what it bears:", history["sharpness_over_limit"])
print(*hs.verdicts(history), sep="\n")
