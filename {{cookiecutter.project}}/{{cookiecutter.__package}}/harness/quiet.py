"""Callbacks that Lightning calls only for the hooks that they have."""

from typing import Any

from lightning import Callback


class Quiet(Callback):
    """A callback without the hooks within a step that its subclass does not define.

    Lightning calls each hook of each callback, empty ones as well, at eight places of a step: with ten
    callbacks that takes a quarter of a millisecond. What is None is not called.
    """

    on_train_batch_start: Any = None
    on_train_batch_end: Any = None
    on_before_zero_grad: Any = None
    on_before_backward: Any = None
    on_after_backward: Any = None
    on_before_optimizer_step: Any = None
    on_validation_batch_start: Any = None
    on_validation_batch_end: Any = None
    on_test_batch_start: Any = None
    on_test_batch_end: Any = None
