"""A run's events for TensorBoard."""
import sys
import time

import numpy as np

from command.files import make_folder
from images.formats import png_bytes
from masks.colours import panels


class EventLog:
    """A run's loss, scores, speed and some predictions for `tensorboard --logdir logs`, on disk after each call.

    The events are written right here: tensorboardX's SummaryWriter hands them to a thread, which a full disk ends, and
    then waits for it for ever.
    """
    TAGS = {"train_loss": "train/loss", "throughput": "train/images_per_s",
            "iou": "scores/IoU", "dice": "scores/Dice", "f1": "scores/F1"}

    def __init__(self, folder):
        self.event, self.summary, writer = _tensorboard_classes()
        self.writer = writer(str(make_folder(folder) / "events"))

    def epoch(self, record):
        """Write what a record holds of TAGS."""
        self._write(record["epoch"], [self.summary.Value(tag=tag, simple_value=record[key])
                                      for key, tag in self.TAGS.items() if key in record])

    def predictions(self, epoch, dataset, predictions, count=3, longest=128):
        """Write the `panels` of the first `count` test images side by side, each at most `longest` px."""
        values = []
        for index in range(min(count, len(dataset))):
            name = dataset.name(index)
            strip = np.hstack(list(panels(dataset, index, predictions[name], longest).values()))
            picture = self.summary.Image(height=strip.shape[0], width=strip.shape[1], colorspace=3,
                                         encoded_image_string=png_bytes(strip))
            tag = f"image, label, probability, errors/{name}".encode("utf-8", "replace").decode()
            values.append(self.summary.Value(tag=tag, image=picture))
        self._write(epoch, values)

    def _write(self, step, values):
        self.writer.write_event(self.event(wall_time=time.time(), step=step, summary=self.summary(value=values)))
        self.writer.flush()


def _tensorboard_classes():
    """tensorboardX's (Event, Summary, EventsWriter), without the PyTorch that it would import: 3 s and 190 MB."""
    hidden = sys.modules.setdefault("torch", None) is None
    try:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary
        return Event, Summary, EventsWriter
    finally:
        if hidden:
            del sys.modules["torch"]
