"""What goes wrong in pictures: order, hidden points, cut or overlapping text, a silent zero."""

import io
import re
import string
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from torch import Tensor, nn

from lenet.data.sets import load
from lenet.model.family import LeNet1
from lenet.model.lenet5 import LeNet5
from lenet.training.evaluate import Score, Totals, evaluate
from lenet.training.plots import gallery
from lenet.training.plots.images import distortions, mistakes, samples
from lenet.training.plots.network import feature_maps, filters
from lenet.training.plots.scores import class_accuracy, confusion_matrix, curves, training_loss
from lenet.training.plots.style import caption, save
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


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def labels(figure: Figure) -> list[str]:
    """The texts among a picture's images."""
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


FIGURES = {
    "curves of 1 epoch": lambda: curves(history_of([2.3], [(2.3, 50)])),
    "training loss": lambda: training_loss([0.3, 0.2, 0.1]),
    "confusion of fashion": lambda: confusion_matrix(random_score(10), FASHION),
    "confusion of 62": lambda: confusion_matrix(random_score(62), EMNIST),
    "accuracy of fashion": lambda: class_accuracy(random_score(10), FASHION),
    "distortions": lambda: distortions(images_of(3), torch.arange(3), DIGITS, lambda i, _: -i, 2),
    "mistakes of fashion": lambda: mistakes(images_of(90), random_score(10, 90), FASHION),
    "filters in colour": lambda: filters(torch.randn(6, 3, 5, 5)),
    "feature maps": lambda: feature_maps(stages_of(), images_of(1), "a seven"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_renders_and_its_titles_and_classes_do_not_overlap(name):
    figure = FIGURES[name]()
    figure.savefig(io.BytesIO(), dpi="figure")  # pytest turns each warning into an error
    axes = figure.axes[0]
    for group in (axes.texts, axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [text.get_window_extent() for text in group if text.get_text()]
        assert not any(a.overlaps(b) for a, b in pairwise(boxes))


LONG = [f"a class with a name of its own, {digit}" for digit in range(10)]
FIGURES_OF_LONG_NAMES = {
    "confusion of long names": lambda: confusion_matrix(random_score(10), LONG),
    "accuracy of long names": lambda: class_accuracy(random_score(10), LONG),
    "curves of small losses": lambda: curves(history_of([2.5e-5, 1.1e-5], [(1e-6, 50)] * 2)),
    "filters of small weights": lambda: filters(torch.randn(6, 1, 5, 5) / 1e4),
}


@pytest.mark.parametrize("name", FIGURES | FIGURES_OF_LONG_NAMES)
def test_nothing_is_cut_at_the_edges_of_a_saved_picture(name, tmp_path):
    figure = caption((FIGURES | FIGURES_OF_LONG_NAMES)[name](), "small print " * 30)
    save(figure, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert edge.min() == 255, "expected white all around"


@pytest.fixture(scope="module")
def digits():
    return load("digits", "unused")


def pictures_of(model, data):
    score = evaluate(model, data.test, nn.functional.cross_entropy)
    return dict(gallery(model, data, history_of([2.0, 1.0]), score, "lr=0.1", "abcd1234" * 4))


def test_each_picture_of_a_run_names_the_run_its_data_and_its_network(digits):
    for name, figure in pictures_of(LeNet5(), digits).items():
        words = " ".join(texts(figure)).replace("\n", " ")
        assert "run abcd1234 (lr=0.1); digits: 1,437 training images" in words, name
        assert "LeNet5, 61,706 parameters" in words, name


def test_a_mistake_has_its_number_and_the_command_that_explains_it(digits):
    model = LeNet5()
    figure = pictures_of(model, digits)["mistakes"]
    command = "python -m lenet explain abcd1234 --image N"
    assert command in " ".join(texts(figure))
    number = int(re.search(r"#(\d+)$", labels(figure)[1])[1])
    shown = figure.axes[0].images[0].get_array()
    assert torch.equal(torch.as_tensor(shown), digits.test.images[number, 0].float())
    assert command not in " ".join(texts(pictures_of(LeNet1(), digits)["mistakes"]))


def test_a_picture_is_saved_in_the_format_of_its_name_with_150_dots_an_inch(tmp_path):
    figure = filters(torch.randn(6, 1, 5, 5))
    for name in ("a.png", "a.svg"):
        save(figure, tmp_path / name)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.info["dpi"][0] == pytest.approx(150, abs=0.1)
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_the_rows_of_distortions_are_named():
    figure = distortions(images_of(3), torch.arange(3), DIGITS, lambda i, _: -i, 2)
    assert labels(figure)[-3:] == ["original", "distorted, 1", "distorted, 2"]


@pytest.mark.parametrize(
    ("losses", "val", "scale"),
    [
        ([1.0, 0.011], None, "linear"),
        ([1.0, 0.009], None, "log"),
        ([1.0, 0.5], [(0.9, 50), (0.002, 50)], "log"),
    ],
)
def test_the_loss_axis_is_logarithmic_beyond_two_decades(losses, val, scale):
    assert curves(history_of(losses, val)).axes[0].get_yscale() == scale


def test_the_best_validation_accuracy_is_named_with_its_first_epoch():
    figure = curves(history_of([1.0] * 4, [(1.0, k) for k in (50, 99, 99, 70)]))
    assert "validation, best 99.00% in epoch 2" in texts(figure)
    assert "train" in texts(curves(history_of([2.0, 1.0])))  # without validation


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


def test_a_class_has_its_accuracy_count_and_wilsons_interval_or_no_samples():
    # 8 of 10 at 95 %: 0.4902 to 0.9433 (Wilson 1927, as tabulated by Newcombe 1998's method 3).
    axes = class_accuracy(score_of([0] * 10, [0] * 8 + [1] * 2, 2), "ab").axes[0]
    points, whole = axes.lines
    (interval,) = axes.collections[0].get_segments()
    assert list(points.get_xdata()) == [80.0]
    assert list(interval[:, 0]) == pytest.approx([49.02, 94.33], abs=0.01)
    assert whole.get_linestyle() == "--"
    assert [text.get_text() for text in axes.texts] == ["80.00%   n = 10", "no samples"]


def test_samples_stand_under_their_true_class():
    figure = samples(images_of(4), torch.tensor([9, 0, 4, 1]), FASHION, num_samples=3)
    assert labels(figure) == ["Ankle boot", "T-shirt/top", "Coat"]
    with pytest.raises(ValueError, match=r"longer|shorter"):
        samples(images_of(3), torch.arange(2), DIGITS)


def test_all_images_of_a_grid_share_one_scale():
    images = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8), torch.full((1, 8, 8), 4.0)])
    figure = samples(images, torch.arange(3), DIGITS)
    assert {image.get_clim() for image in figure.axes[0].images} == {(0.0, 4.0)}


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
    assert labels(figure)[1:] == ["3 → 8\n90.0%  #3", "4 → 9\n70.0%  #4", "1 → 7\n50.0%  #1"]
    assert [image.get_array()[0, 0] for image in figure.axes[0].images] == [3.0, 4.0, 1.0]


def test_the_heading_says_how_many_mistakes_are_not_shown():
    score = score_of([0] * 7, [0, 1, 1, 1, 1, 1, 1], 2)
    for number, part in ((2, "the 2 surest of 6 in 7 images"), (32, "all 6 in 7 images")):
        assert any(part in text for text in texts(mistakes(images_of(7), score, "ab", number)))
    figure = mistakes(images_of(9), random_score(10, 9, 1.1), DIGITS)
    assert "No mistakes: all 9 images are classified correctly." in texts(figure)


def test_zero_is_the_middle_of_one_scale_for_all_filters():
    weight = torch.rand(6, 1, 5, 5) + 1  # all positive
    weight[2, 0, 0, 0] = 7.0
    assert {image.get_clim() for image in filters(weight).axes[0].images} == {(-7.0, 7.0)}


def test_the_largest_output_alone_has_its_own_colour():
    stages = stages_of()
    stages["output"] = torch.tensor([[-9.0, 1.0, 4.0, 3.0]])
    bars = feature_maps(stages, images_of(1)).axes[-1].patches
    colors = [to_hex(bar.get_facecolor()) for bar in bars]
    assert colors.count(colors[2]) == 1
    assert len(set(colors)) == 2
    assert [bar.get_width() for bar in bars] == [-9.0, 1.0, 4.0, 3.0]


def test_every_stage_has_a_panel_with_its_name_shape_and_scale():
    stages = stages_of()
    stages["S2"] = stages["S2"] * 0 - 3
    stages["F6"] = stages["F6"] * 0  # a dead layer: the colour of zero
    figure = feature_maps(stages, images_of(1), "a seven")
    names = ["input\n1 @ 32×32", "C1\n6 @ 28×28", "S2\n6 @ 14×14", "C3\n16 @ 10×10"]
    names += ["S4\n16 @ 5×5", "C5\n120", "F6\n84", "output\n10"]
    assert [text for text in labels(figure) if "\n" in text] == names
    assert "a seven" in texts(figure)
    _, _, s2, c3, _, _, f6 = figure.axes[0].images
    assert s2.get_clim() == (-3.0, 3.0) != c3.get_clim()
    assert f6.norm(0.0) == 0.5
    tiles = c3.get_array()  # two columns of eight maps of 10x10, two pixels apart
    assert tiles.shape == (8 * 12 - 2, 2 * 12 - 2)
    assert tiles[12:22, 12:].tolist() == stages["C3"][0, 9].tolist()
