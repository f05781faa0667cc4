"""The models of Lightning's own demos, each with random data of its own, for either package name."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ortho_lightning import functional as OF
from tests.callbacks.helpers import PACKAGES, boring

WEIGHT = 0.01
VOCABULARY = 20


class Tokens(torch.utils.data.Dataset):
    """Random tokens and their successors, in the place of a text to download."""

    def __init__(self, length=60, block=5):
        self.tokens = torch.randint(VOCABULARY, (length * block + 1,), generator=torch.Generator().manual_seed(0))
        self.length, self.block = length, block

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        piece = self.tokens[index * self.block : (index + 1) * self.block + 1]
        return piece[:-1], piece[1:]


class Digits(torch.utils.data.Dataset):
    """Noise in the shape of MNIST's digits."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.randn(1, 28, 28, generator=torch.Generator().manual_seed(index)), index % 10


class Watched:
    """Logs the loss of the task, and validates: some of the demos do neither."""

    def prepare_data(self):
        """Download nothing."""

    def task_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx)

    def training_step(self, batch, batch_idx):
        output = self.task_step(batch, batch_idx)
        self.log("task", (output["loss"] if isinstance(output, dict) else output).detach())
        return output

    def validation_step(self, batch, batch_idx):
        parameters = [parameter.detach().norm() for parameter in self.parameters()]
        self.log("validation", torch.stack(parameters).sum() + torch.rand(()))


class ByHand:
    """Adds a penalty to the loss inside of the step, without a callback."""

    penalty = "gram"

    def task_step(self, batch, batch_idx):
        runs, handles = [], []
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                handles.append(layer.register_forward_hook(lambda layer, _, outputs: runs.append((layer, outputs))))
        self.runs = runs
        output = super().task_step(batch, batch_idx)
        for handle in handles:
            handle.remove()
        if not self.automatic_optimization:
            return output
        if isinstance(output, dict):
            return {**output, "loss": output["loss"] + WEIGHT * self.total()}
        return output + WEIGHT * self.total()

    def manual_backward(self, loss, *args, **kwargs):
        super().manual_backward(loss + WEIGHT * self.total(), *args, **kwargs)

    def total(self) -> Tensor:
        by_layer: dict[nn.Module, list[Tensor]] = {}
        for layer, outputs in self.runs:
            by_layer.setdefault(layer, []).append(self.penalty_of(layer, outputs))
        return torch.stack([torch.stack(own).mean() for own in by_layer.values()]).sum()

    def penalty_of(self, layer, outputs):
        if self.penalty == "gram":
            return OF.gram_penalty(layer.weight.flatten(1).unsqueeze(0))
        if layer.bias is not None:
            shape = (1, -1, 1, 1) if isinstance(layer, nn.Conv2d) else (-1,)
            outputs = outputs - layer.bias.view(shape)
        channels_last = outputs.movedim(1, -1) if isinstance(layer, nn.Conv2d) else outputs
        return OF.lsh_penalty(channels_last.flatten(0, -2), lambda1=0.0)


def _kinds(package: str) -> dict[str, type]:
    """Return the demo models of a package, each a class without arguments."""
    classes = boring(package)
    transformer = importlib.import_module(f"{package}.demos.transformer")
    lstm = importlib.import_module(f"{package}.demos.lstm")

    class Boring(classes.BoringModel):
        pass

    class Manual(classes.ManualOptimBoringModel):
        pass

    class Demo(classes.DemoModel):
        def train_dataloader(self):
            return DataLoader(classes.RandomDataset(32, 12), batch_size=4)

    class Dicts(classes.BoringModel):
        def step(self, batch):
            return self.loss(self(batch["a"]), self(batch["b"]) + 1)

        def train_dataloader(self):
            return DataLoader(classes.RandomDictDataset(32, 12), batch_size=4, shuffle=True)

    class Streamed(classes.BoringModel):
        """Its data are drawn from the global random state in the middle of training."""

        def train_dataloader(self):
            return DataLoader(classes.RandomIterableDataset(32, 12), batch_size=4)

    class Net(classes.BoringModel):
        def __init__(self):
            super().__init__()
            self.layer = classes.Net()

        def training_step(self, batch, batch_idx):
            images, labels = batch
            return nn.functional.nll_loss(self(images), labels)

        def train_dataloader(self):
            return DataLoader(Digits(), batch_size=4, shuffle=True)

    class Transformer(transformer.LightningTransformer):
        def __init__(self):
            super().__init__(VOCABULARY)
            self.model = transformer.Transformer(VOCABULARY, ninp=16, nhid=16)

        def train_dataloader(self):
            return DataLoader(Tokens(), batch_size=2, shuffle=True)

    class LSTM(lstm.LightningLSTM):
        def __init__(self):
            super().__init__(VOCABULARY)
            self.model = lstm.SimpleLSTM(VOCABULARY, ninp=16, nhid=16)

        def train_dataloader(self):
            tokens = Tokens()
            return DataLoader(tokens, batch_sampler=lstm.SequenceSampler(tokens, batch_size=20))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)

    return {kind.__name__: kind for kind in (Boring, Manual, Demo, Dicts, Streamed, Net, Transformer, LSTM)}


def _at_module_level(name: str, *bases: type) -> type:
    """Make a class that can be pickled."""
    made = type(name, bases, {"__module__": __name__, "__qualname__": name})
    globals()[name] = made
    return made


MODELS: dict[tuple[str, str], type] = {}
"""The models by package and name."""
BY_HAND: dict[tuple[str, str], type] = {}
"""The same with a penalty of their own."""

for _package in PACKAGES:
    for _name, _kind in _kinds(_package).items():
        _suffix = _package.replace(".", "_")
        MODELS[_package, _name] = _at_module_level(f"{_name}_{_suffix}", Watched, _kind)
        BY_HAND[_package, _name] = _at_module_level(f"{_name}_{_suffix}_by_hand", ByHand, MODELS[_package, _name])

NAMES = sorted({name for _, name in MODELS})
