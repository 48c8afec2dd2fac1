"""runs/choices.py: what is chosen from the data and from the memory, never against a flag."""
import numpy as np
import pytest
from helpers import settings_of
from PIL import Image

import Main
from backend import machine
from command.errors import DataError
from datasets.label_rules import LabelSplit, judge_labels
from datasets.label_values import LabelKind, classes_in, count_label_values
from datasets.survey import SetFacts, Survey, facts_of_set
from MirrorPadding import Tiles, Whole
from nets.catalogue import CATALOGUE
from runs import choices
from runs.choices import Device, check_memory, complete

GREY = np.full((4, 5), 70, np.uint8)
COLOUR = np.dstack([np.full((4, 5), value, np.uint8) for value in (70, 70, 71)])
SIZE = 300, 200
FACTS = SetFacts(training_sizes=(SIZE,) * 3, tested_sizes=(SIZE,) * 3, height=300, width=200,
                 n_channels=1, n_classes=2)
CPU, GPU = Device(False, 10 ** 12), Device(True, 8 * 10 ** 9, precisions=("float32", "tf32"))
OLD_GPU = Device(True, 8 * 10 ** 9)


def facts(**changes):
    return SetFacts(**{**vars(FACTS), **changes})


def chosen(*flags, facts=FACTS, device=CPU):
    """What is chosen under --protocol fast and these flags: ({flag: value}, reasons)."""
    choice = complete(settings_of("--protocol", "fast", *flags), facts, device, Main.CROP)
    return choice.settings.flags(), choice.reasons


def pairs_of(folder, images, labels):
    """Write images and labels as PNG files: [(image path, label path)]."""
    pairs = []
    for k, pair in enumerate(zip(images, labels)):
        paths = tuple(folder / f"{kind}_{k}.png" for kind in ("image", "label"))
        for path, pixels in zip(paths, pair):
            Image.fromarray(pixels).save(path)
        pairs.append(paths)
    return pairs


@pytest.mark.parametrize("words, n_channels", [
    ("", None), ("--is_grayscale True", 1), ("--is_grayscale False", 3),
    ("--is_grayscale True --n_channels 1", 1), ("--is_grayscale False --n_channels 3", 3),
    ("--is_grayscale False --n_channels 2", 2), ("--n_channels 16 --is_grayscale False", 16)])
def test_two_ways_to_say_the_channels(words, n_channels):
    assert settings_of(*words.split()).data.n_channels == n_channels


# ------------------------------------------------------------------------------------ from the data
@pytest.mark.parametrize("images, channels", [
    ([GREY, GREY], 1), ([np.repeat(GREY[..., None], 3, axis=2)], 1),
    ([GREY.astype(np.uint16) * 100], 1), ([GREY, COLOUR], 3)])
def test_colours(images, channels, tmp_path):
    pairs = pairs_of(tmp_path, images, [GREY] * len(images))
    assert facts_of_set(Survey(), pairs, [], pairs[:1], None).n_channels == channels


@pytest.mark.parametrize("values, ignored, classes", [
    ([0, 255], None, 2), ([0, 1], None, 2), ([0], None, 2), ([0, 3], None, 2),
    ([0, 1, 2], None, 3), ([1, 4], None, 5),
    ([0, 17, 130, 255, 255], None, 2), ([0, 5, 32, 255, 255], None, 2),  # masks with soft edges
    ([0, 5, 31, 255, 255], None, 256),
    ([0, 1, 2, 1, 2, 1, 2, 255], None, 256), ([0, 1, 2, 255, 255, 255], None, 256),
    ([0, 1, 255, 255], None, 256),
    ([0, 128, 255, 255], None, 256),  # class numbers or a border, and 255: not labelled perhaps
    ([0, 1, 2, 255], 255, 3), ([0, 1, 2, 9], 300, 10), ([0, 1, 7], 7, 2)])
def test_classes(values, ignored, classes, tmp_path):
    pairs = pairs_of(tmp_path, [GREY], [np.array([values], np.uint8)])
    assert classes_in([count_label_values([pairs[0][1]], ignored)]) == classes
    assert facts_of_set(Survey(), pairs, [], pairs, ignored).n_classes == classes


def test_a_class_that_only_test_labels_have_counts_too(tmp_path):
    assert chosen(facts=facts(n_classes=3))[0]["n_classes"] == 3
    (tmp_path / "test").mkdir()
    ones = np.eye(4, 5, dtype=np.uint8)
    pairs = pairs_of(tmp_path, [GREY], [ones])
    for label, n_classes in ((ones + 2 * np.eye(4, 5, 1, dtype=np.uint8), 3),
                             (ones, 2), (255 * ones, 2)):
        test_pairs = pairs_of(tmp_path / "test", [GREY], [label])
        found = facts_of_set(Survey(tmp_path), pairs, [], test_pairs, None)
        assert found.n_classes == n_classes
        assert facts_of_set(Survey(tmp_path), test_pairs, [], pairs, None).n_classes == n_classes


def test_numbers_of_objects_are_no_classes():
    few = LabelSplit("few", {"a": {0: 5, 1: 2}})
    for largest, refused in ((99, True), (32, True), (31, False)):
        many = LabelSplit("many", {"a": {value: 3 for value in range(largest + 1)}})
        for splits in ([many, few], [few, many]):
            line = judge_labels(splits).refusal
            assert line.startswith(f"many: values up to {largest}; give --n_classes") == refused
            assert (line == "") != refused and judge_labels(splits, 2).refusal == ""
    assert chosen("--n_classes", 2, facts=facts(n_classes=100))[0]["n_classes"] == 2


def test_everything_is_chosen_and_no_flag_overruled():
    values, reasons = chosen(facts=facts(n_channels=3, n_classes=3))
    as_expected = "label_kind", "loss", "precision"
    said = [flag for flag in choices.CHOSEN if flag not in as_expected]
    assert list(reasons) == said
    assert (values["label_kind"], values["loss"]) == ("classes", "ce_dice")
    assert (values["n_channels"], values["n_classes"]) == (3, 3)
    assert (values["base_channels"], values["tile"]) == (choices.BASE_CHANNELS["cpu"], Tiles(256))
    assert (values["Batch_size"], values["Total_epochs"]) == (choices.BATCH, choices.EPOCHS[1])
    assert values["Val_epochs"] == 1875
    given = dict(n_channels=1, label_kind="classes", n_classes=5, loss="ce", base_channels=8,
                 tile="full", Batch_size=7, Total_epochs=3, Val_epochs=1)
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    values, reasons = chosen(*words, facts=facts(n_channels=3, n_classes=3))
    assert reasons == {} and {name: values[name] for name in given} == {**given, "tile": Whole()}


def test_numbered_objects_are_parted_by_the_weight_map():
    values, reasons = chosen("--label_kind", "objects")
    assert values["loss"] == "weighted_ce" and reasons["loss"] == "parts objects that touch"
    assert chosen("--label_kind", "objects", "--loss", "ce")[0]["loss"] == "ce"


@pytest.mark.parametrize("n_channels", [1, 3, 4, 16])
def test_more_channels_than_rgb_take_more_memory(n_channels):
    settings = settings_of("--protocol", "fast", "--base_channels", 8, "--tile", 64)
    one, more = (choices.image_bytes(settings, facts(n_channels=number)) / 64 ** 2
                 for number in (1, n_channels))
    assert more - one == 4 * max(0, n_channels - 3)
    values, reasons = chosen(facts=facts(n_channels=n_channels))
    assert values["n_channels"] == n_channels
    words = {1: "grey images", 3: "images in colour"}
    assert reasons["n_channels"] == words.get(n_channels, f"images of {n_channels} channels")


def test_the_papers_protocol_leaves_channels_and_classes_alone_to_choose():
    for flags in ((), ("--protocol", "default"), ("--protocol", "reference")):
        choice = complete(settings_of(*flags), FACTS, CPU, Main.CROP)
        assert set(choice.reasons) == {"n_channels", "n_classes"}
        assert choice.settings.training.Batch_size == 1 and choice.settings.net.base_channels == 64
        assert (choice.settings.training.Total_epochs, choice.settings.training.Val_epochs) == (
            200, 50)


@pytest.mark.parametrize("protocol", ["default", "reference", "paper", "fast"])
@pytest.mark.parametrize("given, total, val", [((), 100_000, 0), (("--Total_epochs", 7), 7, 5),
                                               (("--Total_epochs", 7, "--Val_epochs", 2), 7, 2),
                                               (("--Val_epochs", 2), 100_000, 2)])
def test_a_time_budget_leaves_the_epochs_open_under_every_protocol(protocol, given, total, val):
    settings = settings_of("--protocol", protocol, "--Time_budget", 5, *given)
    training = complete(settings, facts(training_sizes=[SIZE] * 30, tested_sizes=[SIZE] * 30), CPU,
                        Main.CROP).settings.training
    assert (training.Total_epochs, training.Val_epochs) == (total, 0 if val == 5 else val)


@pytest.mark.parametrize("tests, given, val", [
    (30, (), 249), (60, (), 291), (3000, (), 332), (7, (), 249), (60, ("--Total_epochs", 8), 7)])
def test_tests_take_no_more_images_than_a_quarter_of_the_crops(tests, given, val):
    values, _ = chosen(*given, facts=facts(training_sizes=[SIZE] * 30,
                                              tested_sizes=[SIZE] * tests))
    assert values["Val_epochs"] == val


def test_held_back_images_are_tested_instead(tmp_path):
    pair, = pairs_of(tmp_path, [GREY], [GREY])
    found = facts_of_set(Survey(), [pair] * 30, [pair] * 60, [pair], None)
    assert found.tested_sizes == ((4, 5),) * 60


@pytest.mark.parametrize("flags", ["--label_kind classes", "--n_classes 3", "--n_classes 7"])
@pytest.mark.parametrize("best_by", ["aji", "pq"])
def test_classes_have_no_score_of_objects_to_choose_by(best_by, flags, capsys):
    with pytest.raises(SystemExit) as stop:
        settings_of("--best_by", best_by, *flags.split())
    assert stop.value.code == 2
    assert f"--best_by {best_by}: these labels are classes" in capsys.readouterr().err
    assert settings_of("--best_by", "dice", *flags.split()).training.best_by == "dice"


def test_what_chooses_is_checked_again_once_the_labels_are_known():
    objects = facts(label_kind=LabelKind("objects", "many pieces"))
    assert chosen("--best_by", "pq", facts=objects)[0]["best_by"] == "pq"
    assert chosen("--best_by", "pq", "--label_kind", "objects")[0]["label_kind"] == "objects"
    assert chosen("--best_by", "dice")[0]["best_by"] == "dice" and chosen()[0]["best_by"] == "iou"
    with pytest.raises(DataError, match="--best_by pq: these labels are classes"):
        chosen("--best_by", "pq")


def test_what_may_be_numbers_of_objects_is_said():
    for n_classes, said in ((8, False), (13, True)):
        reason = chosen(facts=facts(n_classes=n_classes))[1]["n_classes"]
        assert ("if these number objects: --label_kind objects" in reason) is said


@pytest.mark.parametrize("images, given, total, val", [
    (30, {}, 333, 249), (1, {}, 2500, 1875), (5000, {}, 10, 7), (5000, {"Val_epochs": 40}, 41, 40),
    (30, {"Total_epochs": 1}, 1, 0), (30, {"Total_epochs": 200}, 200, 150),
    (30, {"Time_budget": 5}, 100_000, 0),
    (30, {"Time_budget": 5, "Total_epochs": 7, "Val_epochs": 2}, 7, 2)])
def test_epochs(images, given, total, val):
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    values, _ = chosen(*words, facts=facts(training_sizes=[SIZE] * images,
                                              tested_sizes=[SIZE]))
    assert (values["Total_epochs"], values["Val_epochs"]) == (total, val)


@pytest.mark.parametrize("train, test, flags, crops, total, val", [
    # 4,000 x 4,000 px are 244.1 crops of 256 px; 1,024 x 1,024 px are 16, no more
    ([(4000, 4000)] * 10, [(4000, 4000)] * 5, (), 2440, 10, 7),
    ([(4000, 4000)] * 10, [(4000, 4000)] * 40, (), 2440, 10, 9),
    ([(4000, 4000)] * 10, [(4000, 4000)] * 5, ("--crops_per_image", 1), 10, 1000, 750),
    ([(4000, 4000)] * 10, [(4000, 4000)] * 5, ("--crops_per_image", 50), 500, 20, 15),
    ([(4000, 4000)] * 10, [(4000, 4000)] * 5, ("--tile", 1000), 10, 1000, 750),
    ([(4000, 4000)] * 10, [(4000, 4000)] * 5, ("--tile", 992), 160, 62, 46),
    ([(1024, 1024)] * 20, [SIZE], (), 20, 500, 375),
    ([(1024, 1025)] * 20, [SIZE], (), 320, 31, 23),
    ([(4000, 4000), SIZE, SIZE], [(4000, 4000)], (), 246, 41, 30)])
def test_a_large_image_gives_the_crops_that_cover_it(train, test, flags, crops, total, val):
    values, reasons = chosen(*flags, facts=facts(training_sizes=train, tested_sizes=test,
                                                 height=4000, width=4000))
    assert reasons["Total_epochs"] == f"{total * crops:,} crops, {crops:,} an epoch"
    assert (values["Total_epochs"], values["Val_epochs"]) == (total, val)


def test_whole_images_are_one_sample_each():
    sizes = [(4000, 4000)] * 10
    values, reasons = chosen("--tile", "full", facts=facts(training_sizes=sizes,
                                                           tested_sizes=sizes))
    assert values["crops_per_image"] == "auto" and "10 an epoch" in reasons["Total_epochs"]
    for flags in (("--tile", "full"), ("--tile", "reference"), ()):
        settings_of("--crops_per_image", 1, *flags)
        with pytest.raises(SystemExit) as end:
            settings_of("--crops_per_image", 3, *flags)
        assert end.value.code == 2
    settings_of("--crops_per_image", 3, "--protocol", "fast")


# --------------------------------------------------------------------------------- from the machine
@pytest.mark.parametrize("share, batch", [(0.9, 4), (0.6, 2), (0.3, 1), (0.01, 1)])
def test_the_batch_fits_into_the_memory(share, batch):
    large, flags = facts(height=512, width=600), ("--base_channels", 64)
    settings = complete(settings_of("--protocol", "fast", *flags), large, CPU, Main.CROP).settings
    four = 4 * choices.image_bytes(settings, large)
    assert four == 4 * 72 * 64 * 256 * 256
    device = Device(False, int(four / choices.LARGEST_SHARE / 0.9 * share))
    assert chosen(*flags, facts=large, device=device)[0]["Batch_size"] == batch


def test_a_gpu_gets_the_papers_width_and_a_batch_for_its_memory():
    values, reasons = chosen(facts=facts(height=512, width=600), device=GPU)
    assert (values["base_channels"], values["Batch_size"]) == (64, 4)
    assert reasons["base_channels"] == "a GPU"
    assert reasons["Batch_size"] == "2.0 GB of 8 GB of the GPU"


@pytest.mark.parametrize("cores, here, workers", [
    (1, 1, 2), (2, 1, 2), (16, 1, 15), (16, 4, 3), (128, 1, 16), (128, 8, 15)])
def test_workers_take_the_cores_that_a_gpu_leaves(monkeypatch, cores, here, workers):
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", str(here))
    values, reasons = chosen(device=Device(True, 8 * 10 ** 9, cores=cores))
    assert (values["workers"], reasons["workers"]) == (workers, f"{cores} cores")
    values, reasons = chosen(device=Device(False, 8 * 10 ** 9, cores=cores))
    assert values["workers"] == 2 and "workers" not in reasons
    assert chosen("--workers", 5, device=Device(True, 8 * 10 ** 9, cores=cores))[0]["workers"] == 5


def test_last_model_is_written_once_a_minute_on_a_gpu_and_after_each_epoch_on_a_cpu():
    values, reasons = chosen(device=GPU)
    assert (str(values["save_every"]), reasons["save_every"]) == ("1m", "a GPU")
    values, reasons = chosen(device=CPU)
    assert str(values["save_every"]) == "1" and "save_every" not in reasons
    assert str(chosen("--save_every", 3, device=GPU)[0]["save_every"]) == "3"


def test_a_step_that_does_not_fit_is_refused_with_both_numbers():
    """The paper's net sees 700 px of an image of 512: 72 bytes for each pixel and base channel."""
    large = facts(height=512, width=512)
    settings = complete(settings_of(), large, CPU, Main.CROP).settings
    needed = 72 * 64 * 700 * 700
    assert choices.image_bytes(settings, large) == needed
    check_memory(settings, large, Device(False, needed))
    with pytest.raises(DataError, match=r"512 x 512 px takes about 2\.3 GB, but there are 2\.0 GB "
                                        "that are free; --tile 256, --protocol fast or "
                                        "fewer --base_channels"):
        check_memory(settings, large, Device(False, 2 * 10 ** 9))
    check_memory(settings.replace(tile=Tiles(128)), large, Device(False, 10 ** 9))


def test_a_gpu_also_holds_copies_of_the_weights_and_cudnns_workspace():
    large = facts(height=512, width=512)
    settings = complete(settings_of("--Batch_size", 2), large, CPU, Main.CROP).settings
    each = 95 * 64 * 700 * 700
    assert choices.image_bytes(settings, large, is_gpu=True) == each
    needed = 2 * each + 10 * 4 * 4250 * 64 ** 2 + 2 ** 31
    check_memory(settings, large, Device(True, needed))
    with pytest.raises(DataError, match=rf"takes about {needed / 1e9:.1f} GB, but .* of the GPU"):
        check_memory(settings, large, Device(True, needed - 1))
    averaged = settings.replace(ema=0.99)
    assert (choices.reserved_bytes(averaged, is_gpu=True)
            == choices.reserved_bytes(settings, is_gpu=True) + 3 * 4 * 4250 * 64 ** 2)


@pytest.mark.parametrize("free, batch", [(8, 4), (6.9, 4), (6.8, 2), (4.9, 2), (4.8, 1), (2, 1)])
def test_the_batch_takes_half_of_what_weights_and_workspace_leave_on_a_gpu(free, batch):
    """2.84 GB are theirs; a crop takes 0.50 GB."""
    device = Device(True, int(free * 10 ** 9))
    assert chosen(facts=facts(height=512, width=600), device=device)[0]["Batch_size"] == batch


@pytest.mark.jittor
@pytest.mark.parametrize("mode, options", [
    ("Unet", {"base_channels": 16, "bilinear": True}),
    ("Unet", {"base_channels": 16, "bilinear": False}), ("U2net", {}), ("U2netS", {})])
def test_a_row_knows_about_how_many_weights_its_net_has(jt, mode, options):
    from Model import build_model
    count = sum(var.numel() for var in build_model(mode, 3, 2, **options).state_dict().values())
    assert count <= CATALOGUE[mode].parameters(options) <= 1.02 * count


def test_the_remedy_suits_the_run():
    def remedy(*flags):
        settings = complete(settings_of(*flags), facts(height=256, width=256), CPU,
                            Main.CROP).settings
        with pytest.raises(DataError) as error:
            check_memory(settings, facts(height=256, width=256), Device(False, 1000))
        return str(error.value).partition("; ")[2]
    fast = ("--protocol", "fast", "--Batch_size")
    assert remedy(*fast, 64) == ("--tile 128, a smaller --Batch_size or fewer --base_channels "
                                 "take less")
    assert remedy("--mode", "U2net", *fast, 1) == "--tile 128 takes less"


def test_an_upright_and_a_lying_image_are_no_square():
    """One image a step: no step sees the height of one and the width of the other."""
    mixed = facts(height=900, width=900, shapes=frozenset([(900, 60), (60, 900)]))
    settings = complete(settings_of(), mixed, CPU, Main.CROP).settings
    needed = 72 * 64 * (912 + 172) * (68 + 184)
    device = Device(False, needed + 1)
    check_memory(settings, mixed, device)
    with pytest.raises(DataError, match="step on 900 x 900 px"):
        check_memory(settings.replace(Batch_size=2), mixed, device)


def test_ranks_on_one_machine_share_its_memory(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "8")
    settings = complete(settings_of("--Batch_size", 8), FACTS, CPU, Main.CROP).settings
    each = choices.image_bytes(settings, FACTS)
    check_memory(settings, FACTS, Device(False, 8 * each))
    check_memory(settings, FACTS, Device(True, choices.image_bytes(settings, FACTS, is_gpu=True)
                                         + choices.reserved_bytes(settings, is_gpu=True)))
    for here, refused in ((8, True), (2, False)):
        monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", str(here))
        if refused:
            with pytest.raises(DataError, match="takes about"):
                check_memory(settings, FACTS, Device(False, 7 * each))
        else:
            check_memory(settings, FACTS, Device(False, 7 * each))


def test_the_free_memory_is_the_machines_or_less():
    with open("/proc/meminfo", encoding="ascii") as file:
        total = 1024 * int(next(line for line in file if line.startswith("MemTotal:")).split()[1])
    assert 2 ** 24 < machine.free_memory() <= total
