"""The same for a loader without a length: Lightning reads it a batch ahead of the step."""

import random

import numpy as np
import stream
import torch

Model = stream.Model


class DataModule(stream.DataModule):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch + torch.rand_like(batch) * np.random.rand() * random.random()
