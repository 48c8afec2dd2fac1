"""Modules that a training leaves as they are.  Importing this module does not import Jittor."""
from backend import start


def freeze(model, names):
    """Freeze modules of a model: no step changes them, and none computes a gradient in them.

    names: attributes of the model.  Its input must reach them before anything that is trained.
    They stay in eval mode when the model is in training: BatchNorm uses its running statistics and
    keeps them, and nothing is dropped.  On a CPU they run as in prediction, one kernel a layer.
    """
    for name in names:
        _freeze(getattr(model, name))


def _freeze(module):
    for parameter in module.parameters():
        parameter.stop_grad()
    forward = module.execute

    def execute(*inputs):
        if module.is_training():  # model.train() says it to every module
            module.eval()
        with start.jt.no_grad():
            return forward(*inputs)
    module.execute = execute
