"""The explanation as one HTML page, without scripts or anything from the internet."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import jinja2
import torch
from PIL import Image
from torch import Tensor

from lenet.commands.demo.wiring import Layer
from lenet.commands.explain.steps import Step, Term
from lenet.data.inputs import Inputs

MAX_TERMS = 25  # one filter over one map has 25; for a longer sum, only the largest are shown
LARGEST = 10
RED, BLUE = torch.tensor([178.0, 24.0, 43.0]), torch.tensor([33.0, 102.0, 172.0])


def page(steps: Sequence[Step], label: str, inputs: Inputs, about: str) -> str:
    """The HTML text. `label` is the image's true class; `about` says which image and run it is."""
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    templates = jinja2.Environment(autoescape=True, loader=folder, undefined=jinja2.StrictUndefined)
    return templates.get_template("page.html").render(
        steps=steps,
        image=steps[0].before[0],
        label=label,
        inputs=inputs,
        about=about,
        probabilities=steps[-1].output.flatten().softmax(dim=0).tolist(),
        picture=picture,
        weight_pictures=weight_pictures,
        terms_to_show=terms_to_show,
    )


def terms_to_show(step: Step) -> tuple[Sequence[Term], Sequence[Term]]:
    """The terms that get a line of their own, and the others."""
    if len(step.terms) <= MAX_TERMS:
        return step.terms, []
    terms = sorted(step.terms, key=lambda term: -abs(term.product))
    return terms[:LARGEST], terms[LARGEST:]


def weight_pictures(layer: Layer) -> list[tuple[str, Tensor]]:
    """Pictures of a layer's weights with their captions; pooling has none.

    Shapes: each (H, W).
    """
    if layer.rule == "distance":
        return [(str(k), weights.view(12, 7)) for k, weights in enumerate(layer.weights)]
    if layer.title == "dense layer":
        what = "class" if layer.name == "output" else "unit"
        return [(f"all weights, a row for each {what}", torch.stack(layer.weights))]
    if layer.title != "convolution":
        return []
    pictures = []
    for k, (maps, weights) in enumerate(zip(layer.feeding, layer.weights, strict=True)):
        caption = f"map {k}: fed by {', '.join(map(str, maps))}"
        kernels = list(weights.view(len(maps), layer.size, layer.size))
        pictures.append((caption, torch.cat(kernels, dim=1)))
    return pictures


def picture(values: Tensor, grey: bool = False) -> str:
    """A PNG file as the address of an image, a pixel a number. Grey goes from the lowest number to
    the highest. Otherwise blue is below zero, white zero, red above.

    Shapes: (H, W).
    """
    values = values.detach().float()
    if grey:
        low, high = values.aminmax()
        colours = (255 * (values - low) / (high - low).clamp(min=1e-9))[..., None].expand(-1, -1, 3)
    else:
        part = (values / values.abs().max().clamp(min=1e-9))[..., None]
        colours = 255 + (torch.where(part > 0, RED, BLUE) - 255) * part.abs()
    buffer = io.BytesIO()
    Image.fromarray(colours.round().to(torch.uint8).numpy()).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
