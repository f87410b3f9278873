"""What goes wrong in figures: order, hidden points, cut or overlapping text, a silent zero."""

import io
import math
import string
import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from lenet import tutorial
from lenet.training import plots

DIGITS = [str(digit) for digit in range(10)]
FASHION = [
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
]
EMNIST = string.digits + string.ascii_uppercase + string.ascii_lowercase


def score_of(labels: Tensor, predicted: Tensor, num_classes: int, confidence: Tensor | None = None):
    cells = labels * num_classes + predicted
    confusion = torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)
    rows = zip(confusion.diagonal().tolist(), confusion.sum(dim=1).tolist(), strict=True)
    return SimpleNamespace(
        loss=0.1,
        accuracy=float((labels == predicted).double().mean()),
        count=len(labels),
        labels=labels,
        predicted=predicted,
        confidence=torch.ones(len(labels)) if confidence is None else confidence,
        confusion=confusion,
        class_accuracy=[hits / total if total else None for hits, total in rows],
    )


def random_score(num_classes: int, count: int = 2000, right: float = 0.9):
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(num_classes, (count,), generator=random)
    guesses = torch.randint(num_classes, (count,), generator=random)
    sure = torch.rand(count, generator=random)
    return score_of(labels, torch.where(sure < right, labels, guesses), num_classes, sure)


def score_without(num_classes: int, missing: int):
    labels = torch.tensor([k for k in range(num_classes) if k != missing]).repeat(100)
    return score_of(labels, labels.where(torch.arange(len(labels)) > 4, 0), num_classes)


def history_of(losses, val=lambda loss: SimpleNamespace(loss=loss, accuracy=0.5)):
    return [
        SimpleNamespace(epoch=i, loss=loss, accuracy=0.6, val=val(loss))
        for i, loss in enumerate(losses, start=1)
    ]


def images_of(count: int, channels: int = 1) -> Tensor:
    return torch.rand(count, channels, 32, 32, generator=torch.Generator().manual_seed(0)) * 3 - 1


def stages_of(num_classes: int = 10) -> dict[str, Tensor]:
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
    "curves of 1 epoch": lambda: plots.curves(history_of([2.3])),
    "curves of 300 epochs": lambda: plots.curves(history_of([0.97**i for i in range(300)])),
    "curves without validation": lambda: plots.curves(history_of([2.0, 1.0], lambda loss: None)),
    "curves of a diverged run": lambda: plots.curves(history_of([math.nan, math.inf])),
    "curves of no epoch": lambda: plots.curves([]),
    "confusion of digits": lambda: plots.confusion_matrix(random_score(10), DIGITS),
    "confusion of fashion": lambda: plots.confusion_matrix(random_score(10), FASHION),
    "confusion of 26": lambda: plots.confusion_matrix(random_score(26), EMNIST[-26:]),
    "confusion of 62": lambda: plots.confusion_matrix(random_score(62), EMNIST),
    "confusion without errors": lambda: plots.confusion_matrix(random_score(10, 99, 1.1), DIGITS),
    "confusion, empty class": lambda: plots.confusion_matrix(score_without(10, 3), DIGITS),
    "accuracy of fashion": lambda: plots.class_accuracy(random_score(10), FASHION),
    "accuracy of 62": lambda: plots.class_accuracy(random_score(62), EMNIST),
    "accuracy, empty class": lambda: plots.class_accuracy(score_without(10, 3), DIGITS),
    "accuracy, one example": lambda: plots.class_accuracy(random_score(10, 1, 1.1), DIGITS),
    "samples": lambda: plots.samples(images_of(10), torch.arange(10), FASHION),
    "samples of one image": lambda: plots.samples(images_of(1), torch.tensor([3]), DIGITS),
    "samples of no image": lambda: plots.samples(images_of(0), torch.arange(0), DIGITS),
    "samples in colour": lambda: plots.samples(images_of(3, 3), torch.arange(3), DIGITS),
    "samples all black": lambda: plots.samples(torch.zeros(2, 3, 8, 8), torch.arange(2), DIGITS),
    "mistakes of digits": lambda: plots.mistakes(images_of(90), random_score(10, 90), DIGITS),
    "mistakes of fashion": lambda: plots.mistakes(images_of(90), random_score(10, 90), FASHION),
    "one mistake": lambda: plots.mistakes(images_of(2), random_score(10, 2, 0.6), FASHION),
    "no mistakes": lambda: plots.mistakes(images_of(9), random_score(10, 9, 1.1), DIGITS),
    "filters": lambda: plots.filters(torch.nn.Conv2d(1, 6, 5).weight),
    "filters in colour": lambda: plots.filters(torch.randn(6, 3, 5, 5)),
    "filters all zero": lambda: plots.filters(torch.zeros(6, 1, 5, 5)),
    "feature maps": lambda: plots.feature_maps(stages_of(), images_of(1), "a seven"),
    "feature maps of 62": lambda: plots.feature_maps(stages_of(62), images_of(1, 3)[0]),
    "feature maps, infinite": lambda: plots.feature_maps(
        {name: values * math.inf for name, values in stages_of().items()}, images_of(1)
    ),
    "training loss": lambda: plots.training_loss([0.3, 0.2, 0.1]),
    "training loss of 1 epoch": lambda: plots.training_loss([0.3]),
    "one row": lambda: tutorial.visualize_samples(
        [(images_of(64), torch.arange(64) % 10)], FASHION
    ),
    "one image": lambda: tutorial.visualize_samples([(images_of(1), torch.tensor([9]))], FASHION),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figure_renders_with_finite_limits_and_no_text_cut_off(name: str):
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


def test_pyplot_is_never_imported():
    code = (
        "import io, sys, torch; from lenet.training import plots;"
        "plots.samples(torch.rand(2, 1, 8, 8), torch.arange(2), '01').savefig(io.BytesIO());"
        "plots.training_loss([1.0]).savefig(io.BytesIO());"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- curves


def test_a_single_epoch_can_be_seen():
    for line in plots.curves(history_of([2.3])).axes[0].lines:
        assert line.get_marker() == "o"


def test_one_finite_loss_among_many_epochs_can_be_seen():
    line = plots.curves(history_of([2.3] + [math.nan] * 99)).axes[0].lines[0]
    assert line.get_marker() == "o"


def test_three_hundred_epochs_are_lines_without_markers():
    for line in plots.curves(history_of([1.0] * 300)).axes[0].lines:
        assert line.get_marker() in ("", "None")


@pytest.mark.parametrize(
    ("losses", "scale"),
    [([1.0, 0.011], "linear"), ([1.0, 0.009], "log"), ([1.0, 0.0], "linear"), ([9.0], "linear")],
)
def test_the_loss_axis_is_logarithmic_beyond_two_decades(losses: list[float], scale: str):
    assert plots.curves(history_of(losses)).axes[0].get_yscale() == scale


def test_the_validation_loss_counts_for_the_scale():
    history = history_of([1.0, 0.5], lambda loss: SimpleNamespace(loss=loss / 300, accuracy=0.5))
    assert plots.curves(history).axes[0].get_yscale() == "log"


def test_epochs_without_validation_are_left_out_of_its_line_alone():
    history = history_of([3.0, 2.0, 1.0, 0.5])
    history[0].val = history[2].val = None
    for axes in plots.curves(history).axes:
        train, val = axes.lines
        assert list(train.get_xdata()) == [1, 2, 3, 4]
        assert list(val.get_xdata()) == [2, 4]


def test_a_run_without_validation_names_training_alone():
    for axes in plots.curves(history_of([2.0, 1.0], lambda loss: None)).axes:
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["train"]


def test_the_best_validation_accuracy_is_named_with_its_first_epoch():
    history = history_of([1.0] * 4)
    for epoch, accuracy in zip(history, [0.5, 0.9876, 0.9876, 0.7], strict=True):
        epoch.val = SimpleNamespace(loss=1.0, accuracy=accuracy)
    assert "validation, best 98.76% in epoch 2" in texts(plots.curves(history))


def test_losses_that_are_not_finite_are_gaps():
    line = plots.curves(history_of([2.0, math.inf, math.nan, 1.0])).axes[0].lines[0]
    assert [math.isnan(loss) for loss in line.get_ydata()] == [False, True, True, False]


def test_a_run_of_nan_says_so():
    assert "no finite loss" in texts(plots.curves(history_of([math.nan, math.nan])))


@pytest.mark.parametrize("count", [1, 7, 300])
def test_epoch_ticks_are_whole_numbers(count: int):
    figure = plots.curves(history_of([1.0] * count))
    figure.draw_without_rendering()
    ticks = figure.axes[0].get_xticks()
    assert all(tick == round(tick) for tick in ticks)
    assert any(1 <= tick <= count for tick in ticks)


# ---- confusion matrix


def cell_texts(figure: Figure) -> dict[tuple[int, int], str]:
    return {text.get_position(): text.get_text() for text in figure.axes[0].texts}


def test_rows_are_truth_and_columns_prediction():
    score = score_of(torch.tensor([0, 0, 0, 1, 2]), torch.tensor([0, 2, 2, 1, 2]), 3)
    figure = plots.confusion_matrix(score, "abc")
    # (x, y): x is the column
    assert cell_texts(figure) == {(0, 0): "1", (2, 0): "2", (1, 1): "1", (2, 2): "1"}
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("prediction", "truth")
    low, high = figure.axes[0].get_ylim()
    assert low > high, "the first class is the top row"


def test_the_diagonal_is_outside_the_colour_scale():
    labels = torch.arange(3).repeat_interleave(1000)
    predicted = labels.clone()
    predicted[0] = 1
    shown = plots.confusion_matrix(score_of(labels, predicted, 3), "abc").axes[0].images[0]
    assert shown.get_array().mask.diagonal().all()
    assert shown.norm.vmax == pytest.approx(0.001)


def test_errors_are_coloured_by_their_share_of_the_row():
    labels = torch.tensor([0] * 100 + [1] * 10)
    predicted = torch.tensor([0] * 90 + [1] * 10 + [1] * 5 + [0] * 5)
    rates = plots.confusion_matrix(score_of(labels, predicted, 2), "ab").axes[0].images[0]
    assert float(rates.get_array()[0, 1]) == pytest.approx(0.1)
    assert float(rates.get_array()[1, 0]) == pytest.approx(0.5)


def test_the_worst_confusions_are_named_largest_first():
    labels = torch.tensor([0] * 9 + [1] * 9)
    predicted = torch.tensor([0] * 7 + [1] * 2 + [0] * 3 + [1] * 6)
    figure = plots.confusion_matrix(score_of(labels, predicted, 2), "ab")
    assert "Most often confused: b → a (3), a → b (2)" in texts(figure)


def test_a_perfect_score_is_said_to_have_no_errors():
    figure = plots.confusion_matrix(random_score(10, 99, 1.1), DIGITS)
    assert "No errors" in texts(figure)
    assert figure.axes[1].get_ylim()[0] == 0, "there is no share below zero"


def test_sixty_two_classes_have_no_cell_text():
    assert not cell_texts(plots.confusion_matrix(random_score(62), EMNIST))


@pytest.mark.parametrize("classes", [FASHION, [f"{k:02}" for k in range(62)]], ids=len)
def test_class_names_do_not_overlap(classes):
    figure = plots.confusion_matrix(random_score(len(classes)), classes)
    figure.draw_without_rendering()
    for labels in (figure.axes[0].get_xticklabels(), figure.axes[0].get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert not any(a.overlaps(b) for a, b in pairwise(boxes))


@pytest.mark.parametrize("figure_of", [plots.confusion_matrix, plots.class_accuracy])
def test_a_wrong_number_of_names_is_refused_with_both_numbers(figure_of):
    with pytest.raises(ValueError, match=r"10.*9"):
        figure_of(random_score(10), DIGITS[:9])


# ---- accuracy by class


def test_a_class_without_samples_is_said_not_drawn_as_zero():
    figure = plots.class_accuracy(score_without(10, 3), DIGITS)
    rows = {text.get_position()[1]: text.get_text() for text in figure.axes[0].texts}
    assert rows[3] == "no samples"
    assert list(rows.values()).count("no samples") == 1
    bars = [round(bar.get_y() + bar.get_height() / 2) for bar in figure.axes[0].patches]
    assert bars == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_bars_end_at_the_accuracy_and_say_their_count():
    labels = torch.tensor([0] * 200 + [1] * 100)
    predicted = torch.tensor([0] * 198 + [1] * 102)
    figure = plots.class_accuracy(score_of(labels, predicted, 2), "ab")
    ends = [bar.get_x() + bar.get_width() for bar in figure.axes[0].patches]
    assert ends == pytest.approx([99.0, 100.0])
    low, high = figure.axes[0].get_ylim()
    assert low > high, "the first class is the top row"
    notes = [text.get_text() for text in figure.axes[0].texts]
    assert notes == ["99.00%   n = 200", "100.00%   n = 100"]


@pytest.mark.parametrize("right", [0.0, 0.5, 0.9, 0.99, 0.9999, 1.1])
def test_every_bar_has_length_on_an_axis_that_says_where_it_starts(right: float):
    figure = plots.class_accuracy(random_score(10, 20_000, right), DIGITS)
    start, end = figure.axes[0].get_xlim()
    assert end == 100
    assert all(bar.get_width() > 0 for bar in figure.axes[0].patches)
    said = f"the axis starts at {start:.0f}%" in figure.axes[0].get_xlabel()
    assert said == (start > 0)


def test_differences_near_the_top_are_not_drawn_on_the_full_axis():
    start, _ = plots.class_accuracy(random_score(10, 20_000, 0.99), DIGITS).axes[0].get_xlim()
    assert start >= 95


def test_the_total_is_a_line_over_all_examples_not_a_mean_of_classes():
    labels = torch.tensor([0] * 90 + [1] * 10)
    score = score_of(labels, torch.zeros_like(labels), 2)  # class means: 100 and 0
    dashed = [x for x in plots.class_accuracy(score, "ab").axes[0].lines if x.is_dashed()]
    assert [list(line.get_xdata()) for line in dashed] == [[90.0, 90.0]]


def test_the_interval_is_wilsons():
    # 8 of 10 at 95 %: 0.4902 to 0.9433 (Wilson 1927, as tabulated by Newcombe 1998's method 3).
    labels = torch.zeros(10, dtype=torch.int64)
    figure = plots.class_accuracy(score_of(labels, (torch.arange(10) > 7).long(), 1 + 1), "ab")
    low, high = figure.axes[0].lines[0].get_xdata()
    assert (low, high) == (pytest.approx(49.02, abs=0.01), pytest.approx(94.33, abs=0.01))


# ---- images


def test_samples_stand_under_their_true_class():
    labels = torch.tensor([9, 0, 4])
    figure = plots.samples(images_of(3), labels, FASHION)
    assert titles(figure) == ["Ankle boot", "T-shirt/top", "Coat"]


def test_no_more_images_than_asked_for():
    figure = plots.samples(images_of(9), torch.zeros(9, dtype=torch.int64), DIGITS, num_samples=5)
    assert len(figure.axes) == 5


def test_images_without_labels_are_refused():
    with pytest.raises(ValueError, match=r"longer|shorter"):
        plots.samples(images_of(3), torch.arange(2), DIGITS)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_constants_of_the_normalisation_do_not_show(channels: int):
    images = (images_of(4, channels) * 256).round() / 256  # exact under the change of scale
    labels = torch.arange(4)
    plain = drawn(plots.samples(images, labels, DIGITS))
    assert drawn(plots.samples(images * 2 + 8, labels, DIGITS)) == plain


def test_all_images_of_a_grid_share_one_scale():
    images = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8), torch.full((1, 8, 8), 4.0)])
    figure = plots.samples(images, torch.arange(3), DIGITS)
    assert {axes.images[0].get_clim() for axes in figure.axes} == {(0.0, 4.0)}


def test_colour_images_are_shown_as_rgb_with_channels_last():
    images = torch.zeros(1, 3, 4, 4)
    images[0, 2, 0, 3] = 5.0  # blue, at the right end of the top row
    shown = plots.samples(images, torch.tensor([0]), DIGITS).axes[0].images[0].get_array()
    assert shown[0, 3].tolist() == [0.0, 0.0, 1.0]
    assert shown.sum() == 1.0


def test_mistakes_come_surest_first_each_with_its_own_image():
    images = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 1, 8, 8)
    labels, predicted = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([0, 7, 2, 8, 9])
    confidence = torch.tensor([1.0, 0.5, 0.99, 0.9, 0.7])
    figure = plots.mistakes(images, score_of(labels, predicted, 10, confidence), DIGITS)
    assert titles(figure) == ["3 → 8\n90.0%", "4 → 9\n70.0%", "1 → 7\n50.0%"]
    assert [axes.images[0].get_array()[0, 0] for axes in figure.axes] == [3.0, 4.0, 1.0]


def test_the_heading_says_how_many_mistakes_are_not_shown():
    labels = torch.zeros(7, dtype=torch.int64)
    score = score_of(labels, torch.tensor([0, 1, 1, 1, 1, 1, 1]), 2)
    few = texts(plots.mistakes(images_of(7), score, "ab", num_samples=2))
    assert any("the 2 surest of 6 in 7 images" in text for text in few)
    every = texts(plots.mistakes(images_of(7), score, "ab"))
    assert any("all 6 in 7 images" in text for text in every)


def test_no_mistakes_is_a_message_not_an_empty_grid():
    figure = plots.mistakes(images_of(9), random_score(10, 9, 1.1), DIGITS)
    assert any("No mistakes" in text and "9" in text for text in texts(figure))


def test_a_score_of_other_images_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"9.*8"):
        plots.mistakes(images_of(8), random_score(10, 9), DIGITS)


def test_long_titles_do_not_run_into_each_other():
    names = [name.ljust(30, "x") for name in FASHION]
    long = plots.samples(images_of(10), torch.arange(10), names)
    for figure in (FIGURES["mistakes of fashion"](), FIGURES["one row"](), long):
        figure.draw_without_rendering()
        boxes = [axes.title.get_window_extent() for axes in figure.axes]
        assert not any(a.overlaps(b) for a, b in pairwise(boxes))


def test_titles_of_fashion_mistakes_are_large_enough_to_read():
    figure = FIGURES["mistakes of fashion"]()
    assert min(axes.title.get_fontsize() for axes in figure.axes) >= 8


# ---- weights and activations


def test_a_dead_layer_has_the_colour_of_zero_not_of_its_least_value():
    stages = stages_of()
    stages["S2"], stages["F6"] = stages["S2"] * 0, stages["F6"] * 0
    axes = plots.feature_maps(stages, images_of(1)).axes
    assert axes[2].images[0].norm(0.0) == axes[6].images[0].norm(0.0) == 0.5


def test_zero_is_the_middle_of_one_scale_for_all_filters():
    weight = torch.rand(6, 1, 5, 5) + 1  # all positive
    weight[2, 0, 0, 0] = 7.0
    shown = [axes.images[0] for axes in plots.filters(weight).axes[:6]]
    assert {image.get_clim() for image in shown} == {(-7.0, 7.0)}


def test_filters_of_colour_images_have_a_row_a_channel():
    weight = torch.arange(6 * 3).reshape(6, 3, 1, 1).expand(6, 3, 5, 5).float()
    axes = plots.filters(weight).axes[:18]
    values = [int(part.images[0].get_array()[0, 0]) for part in axes]
    assert values == [3 * column + channel for channel in range(3) for column in range(6)]
    assert [part.get_title() for part in axes[:6]] == [f"C1 map {k}" for k in range(6)]
    assert axes[6].get_ylabel() == "channel 1"


def test_every_stage_is_drawn_left_to_right_under_its_name_and_shape():
    figure = plots.feature_maps(stages_of(), images_of(1), "a seven")
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
    _, _, s2, c3, *_ = plots.feature_maps(stages, images_of(1)).axes
    assert {image.get_clim() for image in s2.images} == {(-3.0, 3.0)}
    assert len({image.get_clim() for image in c3.images}) == 1
    assert c3.images[0].get_clim() != (-3.0, 3.0)


def test_the_largest_output_alone_has_its_own_colour():
    stages = stages_of()
    stages["output"] = torch.tensor([[-9.0, 1.0, 4.0, 3.0]])
    bars = plots.feature_maps(stages, images_of(1)).axes[-1].patches
    colors = [to_hex(bar.get_facecolor()) for bar in bars]
    assert colors.count(colors[2]) == 1
    assert len(set(colors)) == 2
    assert [bar.get_width() for bar in bars] == [-9.0, 1.0, 4.0, 3.0]


def test_sixty_two_outputs_do_not_stretch_the_page():
    height = plots.feature_maps(stages_of(62), images_of(1)).get_figheight()
    assert height == plots.feature_maps(stages_of(10), images_of(1)).get_figheight()


def test_a_convolutional_c5_is_drawn_as_units():
    stages = stages_of()
    stages["C5"] = stages["C5"].reshape(1, 120, 1, 1)
    figure = plots.feature_maps(stages, images_of(1))
    assert figure.axes[5].images[0].get_array().shape == (120, 1)


# ---- the tutorial's functions


def test_a_history_of_another_length_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"10.*3"):
        tutorial.plot_training_loss([0.3, 0.2, 0.1], 10)


def test_the_training_loss_keeps_the_tutorials_title_and_counts_epochs_from_one():
    axes = plots.training_loss([0.3, 0.2, 0.1]).axes[0]
    assert axes.get_title() == "Training Loss over Epochs"
    assert list(axes.lines[0].get_xdata()) == [1, 2, 3]
    assert list(axes.lines[0].get_ydata()) == [0.3, 0.2, 0.1]


def test_ground_truth_is_the_images_classes_not_the_first_classes(capsys):
    loader = [(images_of(3), torch.tensor([7, 2, 1]))]
    assert titles(tutorial.visualize_samples(loader, DIGITS)) == ["7", "2", "1"]
    assert capsys.readouterr().out == "GroundTruth: 7 2 1\n"


def test_names_printed_are_as_many_as_images_drawn(capsys):
    loader = [(images_of(20), torch.arange(20) % 10)]
    figure = tutorial.visualize_samples(loader, FASHION, num_samples=3)
    assert len(figure.axes) == 3
    assert capsys.readouterr().out == "GroundTruth: T-shirt/top Trouser Pullover\n"


def test_samples_of_a_loader_stand_in_one_row():
    figure = FIGURES["one row"]()
    assert len({axes.get_position().y0 for axes in figure.axes}) == 1
    assert len(figure.axes) == 8


def test_only_the_first_batch_is_read():
    def loader():
        yield images_of(2), torch.tensor([0, 1])
        raise AssertionError("a second batch was asked for")

    assert len(tutorial.visualize_samples(loader(), DIGITS).axes) == 2


def test_a_loader_without_a_batch_is_refused():
    with pytest.raises(ValueError, match="at least one batch"):
        tutorial.visualize_samples([], DIGITS)
