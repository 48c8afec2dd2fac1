"""A run's events for TensorBoard."""
import sys
import time
from typing import NamedTuple

import numpy as np

from command.files import make_folder
from images.formats import png_bytes
from masks.colours import show_test
from masks.score_rows import ROWS

TAGS = {"train_loss": "train/loss", "throughput": "train/images_per_s",
        **{score.key: score.tag for score in ROWS}}  # {key of a record: its tag}


class EventLog:
    """A run's loss, scores, speed and some predictions for `tensorboard --logdir logs`.

    All is on disk after each call.  The events are written right here: tensorboardX's SummaryWriter
    hands them to a thread, which a full disk ends, and then waits for it for ever.
    """

    def __init__(self, folder):
        self.classes = _import_tensorboard()
        self.writer = self.classes.writer(str(make_folder(folder) / "events"))

    def epoch(self, record):
        """Write what a record holds of TAGS."""
        self._write(record["epoch"], [self.classes.summary.Value(tag=tag, simple_value=record[key])
                                      for key, tag in TAGS.items() if key in record])

    def predictions(self, epoch, dataset, predictions, count=3, longest=128):
        """Write the pictures (`show_test`) of the first `count` test images, side by side.

        longest: the longest side of each, in px.
        """
        values = []
        for index in range(min(count, len(dataset))):
            name = dataset.name(index)
            pictures = show_test(dataset, index, predictions[name], longest)
            strip = np.hstack(list(pictures.values()))
            image = self.classes.summary.Image(height=strip.shape[0], width=strip.shape[1],
                                               colorspace=3, encoded_image_string=png_bytes(strip))
            tag = f"{', '.join(pictures)}/{name}".encode("utf-8", "replace").decode()
            values.append(self.classes.summary.Value(tag=tag, image=image))
        self._write(epoch, values)

    def _write(self, step, values):
        event = self.classes.event(wall_time=time.time(), step=step,
                                   summary=self.classes.summary(value=values))
        self.writer.write_event(event)
        self.writer.flush()


class _Classes(NamedTuple):
    """The classes of tensorboardX that are needed."""
    event: type    # one event
    summary: type  # what an event holds
    writer: type   # writes events into a file


def _import_tensorboard():
    """tensorboardX's _Classes, without the PyTorch that it would import (3 s and 190 MB)."""
    hidden = sys.modules.setdefault("torch", None) is None
    try:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary
        return _Classes(Event, Summary, EventsWriter)
    finally:
        if hidden:
            del sys.modules["torch"]
