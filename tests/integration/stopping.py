"""A callback that ends a training as a crash would."""

from pytorch_lightning import Callback


class StopAfter(Callback):
    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == self.steps:
            raise RuntimeError("stopped on purpose")
