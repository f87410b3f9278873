"""What is known of the published sets: their files, classes and checksums."""

from dataclasses import dataclass

DIGITS = tuple("0123456789")
UPPER, LOWER = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), tuple("abcdefghijklmnopqrstuvwxyz")
FOUR = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


@dataclass(frozen=True)
class Known:
    """What is known of a published set. `folder` names torchvision's class and its folder too;
    `batches` is torchvision's folder of CIFAR's python batches.
    """

    folder: str
    classes: tuple[str, ...]
    files: tuple[str, ...] = tuple(f"{stem}-ubyte" for stem in FOUR)
    sha256: tuple[str, ...] | None = None
    first_label: int = 0
    transposed: bool = False
    batches: str | None = None

    @property
    def place(self) -> str:
        """The folder of the files in torchvision's layout."""
        return self.batches or f"{self.folder}/raw"


# Balanced and bymerge join the letters whose two cases look alike (Cohen et al. 2017, table II).
_MERGED = DIGITS + UPPER + tuple("abdefghnqrt")
EMNIST_SPLITS = {
    "balanced": _MERGED,
    "byclass": DIGITS + UPPER + LOWER,
    "bymerge": _MERGED,
    "letters": LOWER,
    "digits": DIGITS,
    "mnist": DIGITS,
}

KNOWN = {
    "mnist": Known(
        "MNIST",
        DIGITS,
        sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion_mnist": Known(
        "FashionMNIST",
        (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        # Computed from Debian's package dataset-fashion-mnist.
        sha256=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    "kmnist": Known("KMNIST", ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")),
    "qmnist": Known(
        "QMNIST",
        DIGITS,
        tuple(
            f"qmnist-{part}-{kind}"
            for part in ("train", "test")
            for kind in ("images-idx3-ubyte", "labels-idx2-int")
        ),
    ),
    "cifar10": Known(
        "CIFAR10",
        (
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
        (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
        batches="cifar-10-batches-py",
    ),
} | {
    f"emnist_{split}": Known(
        "EMNIST",
        classes,
        tuple(
            f"emnist-{split}-{part}-{kind}-ubyte"
            for part in ("train", "test")
            for kind in ("images-idx3", "labels-idx1")
        ),
        first_label=int(split == "letters"),
        transposed=True,
    )
    for split, classes in EMNIST_SPLITS.items()
}
