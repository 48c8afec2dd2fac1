"""Whose weights these are, by names and shapes."""
from command.errors import DataError
from nets.catalogue import CATALOGUE


def recognise_net(weights):
    """What {name: array} tells of a net: catalogue.Recognised; None for any other net's weights.

    Options that leave no trace in the weights are in the row's `unseen_options`.
    """
    def shape(name):
        """The shape of what has this name, of a convolution's where that is a weight; or None."""
        array = weights.get(name)
        if array is None or (name.endswith(".weight") and array.ndim != 4):
            return None
        return array.shape
    found = (net.recognise(shape) for net in CATALOGUE.values())
    return next(filter(None, found), None)


def describe_net(weights, source):
    """`recognise_net`; raises DataError, naming `source`, for the weights of any other net."""
    found = recognise_net(weights)
    if found is None:
        raise DataError(f"{source}: the weights of neither a U-Net (inc.double_conv ... outc) nor "
                        "a U-2-Net (stage1 ... outconv)")
    return found
