"""The end of a run with held-out images: they choose the Cut, and the test images are read once."""
from functools import partial
from typing import NamedTuple, Optional

from masks.assess import assess
from masks.choosing import choose_cut, score_cuts
from masks.pixel_scores import mean_scores
from nets.cut import Cut


class FinalTest(NamedTuple):
    """What the test images say of the best model."""
    predictions: dict   # {name: answers.Prediction}
    scores: dict        # their means
    cut: Optional[Cut]  # with which they were made; None where there is none to choose

    @property
    def header(self):
        """What the model's checkpoint keeps of it."""
        return {"test_scores": self.scores, **(self.cut._asdict() if self.cut else {})}


def test_once(test, data, best_by, say):
    """The FinalTest of the best model; None when asked to stop.

    test: Process.Trainer.test of the best model's weights, by this rank alone.  data:
    DataLoader.Data, which holds images back.  best_by: the key of the score that chooses the Cut,
    where there are two classes.  say: tells the user something.
    """
    cut = None
    if data.choosing.n_classes == 2:
        tables = test(data.choosing, judge=partial(score_cuts, best_by=best_by))
        if tables is None:
            return None
        choice = choose_cut(list(tables.values()))
        say(choice.describe(best_by))
        cut = choice.cut
    predictions = test(data.test_set, judge=partial(assess, cut=cut or Cut()))
    if predictions is None:
        return None
    scores = mean_scores([each.scores for each in predictions.values()])
    return FinalTest(predictions, scores, cut)
