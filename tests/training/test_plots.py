"""What goes wrong in pictures: order, hidden points, cut or overlapping text, a silent zero."""

import io
import math
import string
from itertools import pairwise

import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from lenet.training.evaluate import Score, Totals
from lenet.training.plots.images import distortions, mistakes, samples
from lenet.training.plots.network import feature_maps, filters
from lenet.training.plots.scores import class_accuracy, confusion_matrix, curves, training_loss
from lenet.training.progress import Epoch

DIGITS = [str(digit) for digit in range(10)]
FASHION = [
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
]
EMNIST = string.digits + string.ascii_uppercase + string.ascii_lowercase


def score_of(labels, predicted, num_classes, confidence=None):
    labels, predicted = torch.as_tensor(labels), torch.as_tensor(predicted)
    confidence = torch.ones(len(labels)) if confidence is None else torch.as_tensor(confidence)
    correct = int((labels == predicted).sum())
    return Score(0.1, correct, len(labels), labels, predicted, confidence, num_classes)


def random_score(num_classes, count=2000, right=0.9):
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(num_classes, (count,), generator=random)
    guesses = torch.randint(num_classes, (count,), generator=random)
    sure = torch.rand(count, generator=random)
    return score_of(labels, torch.where(sure < right, labels, guesses), num_classes, sure)


def score_without(missing):
    labels = torch.tensor([k for k in range(10) if k != missing]).repeat(100)
    return score_of(labels, labels.where(torch.arange(len(labels)) > 4, 0), 10)


def history_of(losses, val=None):
    """Epochs of these training losses. `val` has a (loss, accuracy) or None for each."""
    val = val or [None] * len(losses)
    return [
        Epoch(loss, 1, 1, number, [], 0.1, 1.0, pair and Totals(100 * pair[0], pair[1], 100), True)
        for number, (loss, pair) in enumerate(zip(losses, val, strict=True), 1)
    ]


def images_of(count, channels=1) -> Tensor:
    return torch.rand(count, channels, 32, 32, generator=torch.Generator().manual_seed(0)) * 3 - 1


def stages_of(num_classes=10):
    shapes = {"C1": (6, 28, 28), "S2": (6, 14, 14), "C3": (16, 10, 10), "S4": (16, 5, 5)}
    shapes |= {"C5": (120,), "F6": (84,), "output": (num_classes,)}
    random = torch.Generator().manual_seed(0)
    return {name: torch.randn(1, *shape, generator=random) for name, shape in shapes.items()}


def drawn(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi="figure")  # so that extents hold afterwards
    return file.getvalue()


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


FIGURES = {
    "curves of 1 epoch": lambda: curves(history_of([2.3], [(2.3, 50)])),
    "curves of no epoch": lambda: curves([]),
    "training loss": lambda: training_loss([0.3, 0.2, 0.1]),
    "confusion of 62": lambda: confusion_matrix(random_score(62), EMNIST),
    "accuracy of fashion": lambda: class_accuracy(random_score(10), FASHION),
    "samples of no image": lambda: samples(images_of(0), torch.arange(0), DIGITS),
    "distortions": lambda: distortions(images_of(3), torch.arange(3), DIGITS, lambda i, _: -i, 2),
    "mistakes of fashion": lambda: mistakes(images_of(90), random_score(10, 90), FASHION),
    "filters in colour": lambda: filters(torch.randn(6, 3, 5, 5)),
    "feature maps": lambda: feature_maps(stages_of(), images_of(1), "a seven"),
    "feature maps, infinite": lambda: feature_maps(
        {name: values * math.inf for name, values in stages_of(62).items()}, images_of(1, 3)[0]
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_renders_with_finite_limits_and_no_text_cut_off(name):
    figure = FIGURES[name]()
    assert drawn(figure).startswith(b"\x89PNG")  # pytest turns each warning into an error
    for axes in figure.axes:
        assert all(map(math.isfinite, (*axes.get_xlim(), *axes.get_ylim())))
    page = figure.bbox.padded(1)
    undrawn = labels_beyond_the_limits(figure)
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible() and text not in undrawn:
            box = text.get_window_extent()
            assert page.x0 <= box.x0 <= box.x1 <= page.x1, text
            assert page.y0 <= box.y0 <= box.y1 <= page.y1, text


def labels_beyond_the_limits(figure: Figure) -> set[Text]:
    """Matplotlib keeps the labels of ticks beyond the limits and doesn't draw them."""
    beyond = set()
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not low <= tick.get_loc() <= high:
                beyond |= {tick.label1, tick.label2}
    return beyond


# ---- Curves ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "val", "scale"),
    [
        ([1.0, 0.011], None, "linear"),
        ([1.0, 0.009], None, "log"),
        ([1.0, 0.0], None, "linear"),
        ([1.0, 0.5], [(0.9, 50), (0.002, 50)], "log"),
    ],
)
def test_the_loss_axis_is_logarithmic_beyond_two_decades(losses, val, scale):
    assert curves(history_of(losses, val)).axes[0].get_yscale() == scale


def test_epochs_without_validation_are_left_out_of_its_line_alone():
    for axes in curves(history_of([3.0, 2.0, 1.0], [None, (1.0, 50), (1.0, 60)])).axes:
        train, val = axes.lines
        assert list(train.get_xdata()) == [1, 2, 3]
        assert list(val.get_xdata()) == [2, 3]
    for axes in curves(history_of([2.0, 1.0])).axes:
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["train"]


def test_the_best_validation_accuracy_is_named_with_its_first_epoch():
    figure = curves(history_of([1.0] * 4, [(1.0, k) for k in (50, 99, 99, 70)]))
    assert "validation, best 99.00% in epoch 2" in texts(figure)


def test_losses_that_are_not_finite_are_gaps():
    line = curves(history_of([2.0, math.inf, math.nan, 1.0])).axes[0].lines[0]
    assert [math.isnan(loss) for loss in line.get_ydata()] == [False, True, True, False]
    assert "no finite loss" in texts(curves(history_of([math.nan, math.nan])))


@pytest.mark.parametrize("count", [1, 7])
def test_epoch_ticks_are_whole_numbers(count):
    figure = curves(history_of([1.0] * count))
    figure.draw_without_rendering()
    ticks = figure.axes[0].get_xticks()
    assert all(tick == round(tick) for tick in ticks)
    assert any(1 <= tick <= count for tick in ticks)


# ---- Confusion matrix ------------------------------------------------------------------------


def cell_texts(figure):
    return {text.get_position(): text.get_text() for text in figure.axes[0].texts}


def test_rows_are_truth_and_columns_prediction():
    figure = confusion_matrix(score_of([0, 0, 0, 1, 2], [0, 2, 2, 1, 2], 3), "abc")
    # (x, y): x is the column
    assert cell_texts(figure) == {(0, 0): "1", (2, 0): "2", (1, 1): "1", (2, 2): "1"}
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("prediction", "truth")
    low, high = figure.axes[0].get_ylim()
    assert low > high, "the first class is the top row"


def test_the_worst_confusions_are_named_largest_first():
    labels, predicted = [0] * 9 + [1] * 9, [0] * 7 + [1] * 2 + [0] * 3 + [1] * 6
    figure = confusion_matrix(score_of(labels, predicted, 2), "ab")
    assert "Most often confused: b → a (3), a → b (2)" in texts(figure)


def test_class_names_do_not_overlap():
    for classes in (FASHION, [f"{k:02}" for k in range(62)]):
        figure = confusion_matrix(random_score(len(classes)), classes)
        figure.draw_without_rendering()
        for labels in (figure.axes[0].get_xticklabels(), figure.axes[0].get_yticklabels()):
            boxes = [label.get_window_extent() for label in labels]
            assert not any(a.overlaps(b) for a, b in pairwise(boxes))


@pytest.mark.parametrize("figure_of", [confusion_matrix, class_accuracy])
def test_a_wrong_number_of_names_is_refused_with_both_numbers(figure_of):
    with pytest.raises(ValueError, match=r"10.*9"):
        figure_of(random_score(10), DIGITS[:9])


# ---- Accuracy by class -----------------------------------------------------------------------


def test_a_class_without_samples_is_named_and_not_drawn_as_zero():
    figure = class_accuracy(score_without(3), DIGITS)
    rows = {text.get_position()[1]: text.get_text() for text in figure.axes[0].texts}
    assert [row for row, text in rows.items() if text == "no samples"] == [3]
    bars = [round(bar.get_y() + bar.get_height() / 2) for bar in figure.axes[0].patches]
    assert bars == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_bars_end_at_the_accuracy_and_name_their_count():
    score = score_of([0] * 200 + [1] * 100, [0] * 198 + [1] * 102, 2)
    axes = class_accuracy(score, "ab").axes[0]
    ends = [bar.get_x() + bar.get_width() for bar in axes.patches]
    assert ends == pytest.approx([99.0, 100.0])
    low, high = axes.get_ylim()
    assert low > high, "the first class is the top row"
    assert [text.get_text() for text in axes.texts] == ["99.00%   n = 200", "100.00%   n = 100"]


@pytest.mark.parametrize("right", [0.0, 0.9, 1.1])
def test_every_bar_has_length_on_an_axis_that_says_where_it_starts(right):
    axes = class_accuracy(random_score(10, 20_000, right), DIGITS).axes[0]
    start, end = axes.get_xlim()
    assert end == 100
    assert all(bar.get_width() > 0 for bar in axes.patches)
    assert (f"the axis starts at {start:.0f}%" in axes.get_xlabel()) == (start > 0)
    assert start >= 95 or right < 0.99


def test_the_interval_is_wilsons():
    # 8 of 10 at 95 %: 0.4902 to 0.9433 (Wilson 1927, as tabulated by Newcombe 1998's method 3).
    figure = class_accuracy(score_of([0] * 10, [0] * 8 + [1] * 2, 2), "ab")
    low, high = figure.axes[0].lines[0].get_xdata()
    assert (low, high) == (pytest.approx(49.02, abs=0.01), pytest.approx(94.33, abs=0.01))


# ---- Images ----------------------------------------------------------------------------------


def test_samples_stand_under_their_true_class():
    figure = samples(images_of(4), torch.tensor([9, 0, 4, 1]), FASHION, num_samples=3)
    assert titles(figure) == ["Ankle boot", "T-shirt/top", "Coat"]
    with pytest.raises(ValueError, match=r"longer|shorter"):
        samples(images_of(3), torch.arange(2), DIGITS)


def test_all_images_of_a_grid_share_one_scale():
    images = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8), torch.full((1, 8, 8), 4.0)])
    figure = samples(images, torch.arange(3), DIGITS)
    assert {axes.images[0].get_clim() for axes in figure.axes} == {(0.0, 4.0)}


def test_colour_images_are_shown_as_rgb_with_channels_last():
    images = torch.zeros(1, 3, 4, 4)
    images[0, 2, 0, 3] = 5.0  # blue, at the right end of the top row
    shown = samples(images, torch.tensor([0]), DIGITS).axes[0].images[0].get_array()
    assert shown[0, 3].tolist() == [0.0, 0.0, 1.0]
    assert shown.sum() == 1.0


def test_mistakes_come_surest_first_each_with_its_own_image():
    images = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 1, 8, 8)
    score = score_of([0, 1, 2, 3, 4], [0, 7, 2, 8, 9], 10, [1.0, 0.5, 0.99, 0.9, 0.7])
    figure = mistakes(images, score, DIGITS)
    assert titles(figure) == ["3 → 8\n90.0%", "4 → 9\n70.0%", "1 → 7\n50.0%"]
    assert [axes.images[0].get_array()[0, 0] for axes in figure.axes] == [3.0, 4.0, 1.0]


def test_the_heading_says_how_many_mistakes_are_not_shown():
    score = score_of([0] * 7, [0, 1, 1, 1, 1, 1, 1], 2)
    for number, part in ((2, "the 2 surest of 6 in 7 images"), (32, "all 6 in 7 images")):
        assert any(part in text for text in texts(mistakes(images_of(7), score, "ab", number)))
    figure = mistakes(images_of(9), random_score(10, 9, 1.1), DIGITS)
    assert "No mistakes: all 9 images are classified correctly." in texts(figure)


def test_titles_are_readable_and_do_not_run_into_each_other():
    wrong = FIGURES["mistakes of fashion"]()
    assert min(axes.title.get_fontsize() for axes in wrong.axes) >= 8
    names = [name.ljust(30, "x") for name in FASHION]
    for figure in (wrong, samples(images_of(10), torch.arange(10), names)):
        figure.draw_without_rendering()
        boxes = [axes.title.get_window_extent() for axes in figure.axes]
        assert not any(a.overlaps(b) for a, b in pairwise(boxes))


# ---- Weights and activations -----------------------------------------------------------------


def test_zero_is_the_middle_of_one_scale_for_all_filters():
    weight = torch.rand(6, 1, 5, 5) + 1  # all positive
    weight[2, 0, 0, 0] = 7.0
    shown = [axes.images[0] for axes in filters(weight).axes[:6]]
    assert {image.get_clim() for image in shown} == {(-7.0, 7.0)}


def test_every_stage_is_drawn_left_to_right_under_its_name_and_shape():
    stages = stages_of()
    stages["C5"] = stages["C5"].reshape(1, 120, 1, 1)  # a convolution's
    figure = feature_maps(stages, images_of(1), "a seven")
    heads = [text for text in figure.texts if text.get_weight() == "bold"]
    names = ["input", "C1", "S2", "C3", "S4", "C5", "F6", "output"]
    assert [head.get_text() for head in heads] == names
    places = [head.get_position()[0] for head in heads]
    assert places == sorted(places)
    assert [len(axes.images) for axes in figure.axes] == [1, 6, 6, 16, 16, 1, 1, 0]
    assert {"6 @ 28×28", "16 @ 5×5", "120", "84", "10", "a seven"} <= set(texts(figure))


def test_maps_of_a_layer_share_a_scale_and_layers_do_not():
    stages = stages_of()
    stages["S2"] = stages["S2"] * 0 - 3
    stages["S2"][0, 4] = 0.5
    stages["F6"] = stages["F6"] * 0  # a dead layer: the colour of zero
    _, _, s2, c3, _, _, f6, _ = feature_maps(stages, images_of(1)).axes
    assert {image.get_clim() for image in s2.images} == {(-3.0, 3.0)}
    assert len({image.get_clim() for image in c3.images}) == 1
    assert c3.images[0].get_clim() != (-3.0, 3.0)
    assert f6.images[0].norm(0.0) == 0.5


def test_the_largest_output_alone_has_its_own_colour():
    stages = stages_of()
    stages["output"] = torch.tensor([[-9.0, 1.0, 4.0, 3.0]])
    bars = feature_maps(stages, images_of(1)).axes[-1].patches
    colors = [to_hex(bar.get_facecolor()) for bar in bars]
    assert colors.count(colors[2]) == 1
    assert len(set(colors)) == 2
    assert [bar.get_width() for bar in bars] == [-9.0, 1.0, 4.0, 3.0]
