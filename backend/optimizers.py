"""The optimisers."""
import math

from backend.start import jt


class Adam(jt.optim.Adam):
    """Adam with epsilon after the bias correction (Kingma and Ba 2015, algorithm 1), as in PyTorch; Jittor has it before."""
    EPSILON = 1e-8

    def step(self, loss=None, retain_graph=False):
        steps = self.n_step + (loss is not None)
        self.eps = self.EPSILON * math.sqrt(1 - self.betas[1] ** steps)  # Jittor divides by sqrt(v) + eps, uncorrected
        super().step(loss, retain_graph)


def build_optimizer(name, model, learning_rate):
    """'adam': betas (0.99, 0.999), weight decay 1e-4; 'adamw': betas (0.9, 0.999), decoupled weight decay 0.01 (Loshchilov
    and Hutter, ICLR 2019); 'sgd': momentum 0.99, as in the U-Net paper (section 3)."""
    trainable = [parameter for parameter in model.parameters() if not parameter.is_stop_grad()]
    if name == "sgd":
        return jt.optim.SGD(trainable, learning_rate, momentum=0.99)
    if name == "adamw":
        return jt.optim.AdamW(trainable, learning_rate, betas=(0.9, 0.999), weight_decay=0.01)
    return Adam(trainable, learning_rate, betas=(0.99, 0.999), weight_decay=1e-4)
