"""The explanation as one HTML page, without scripts or anything from the internet."""

import base64
import html
import io
from pathlib import Path
from string import Template

import torch
from PIL import Image
from torch import Tensor

from lenet.commands.demo.wiring import Layer
from lenet.commands.explain.steps import Arithmetic, Explanation, Step

PAGE = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
MAX_TERMS = 25  # one filter over one map has 25; for a longer sum, only the largest are shown
LARGEST = 10
RED, BLUE = torch.tensor([178.0, 24.0, 43.0]), torch.tensor([33.0, 102.0, 172.0])


def page(found: Explanation) -> str:
    classes = list(found.inputs.classes)
    best = max(range(len(classes)), key=found.probabilities.__getitem__)
    guess = f"{classes[best]} ({found.probabilities[best]:.1%})"
    return PAGE.substitute(
        label=html.escape(found.label),
        guess=html.escape(guess),
        parameters=f"{sum(step.layer.parameters for step in found.steps):,}",
        image=_picture(found.image, "the digit as the network sees it", grey=True, width=256),
        size=" x ".join(map(str, found.image.shape)),
        mean=f"{found.inputs.mean:.4f}",
        std=f"{found.inputs.std:.4f}",
        contents="\n".join(f'<a href="#{s.layer.name}">{s.layer.name}</a>' for s in found.steps),
        layers="\n".join(map(_section, found.steps)),
        probabilities=_bars(found.probabilities, classes, percent=True),
    )


def _section(step: Step) -> str:
    if step.output.shape[1] > 1:
        pictures = (_figure(each, f"map {k}") for k, each in enumerate(step.output))
        output = f'<div class="maps">{"".join(pictures)}</div>'
    else:
        values = step.output.flatten().tolist()
        output = _bars(values, [str(k) for k in range(len(values))])
    parts = [
        f'<section id="{step.layer.name}">',
        f"<h2>{step.title}</h2>",
        f'<p class="quiet">{step.shapes}; {_parameters(step.layer.parameters)}</p>',
        f"<p>{html.escape(step.text)}</p>",
        f'<p class="formula">{html.escape(step.formula)}</p>',
        f"<h3>Its output for this digit</h3>{output}",
        "<h3>One number, calculated by hand</h3>",
        _arithmetic(step.arithmetic),
    ]
    if weights := weight_pictures(step.layer):
        pictures = (_figure(weight, caption) for caption, weight in weights)
        wide = "maps large" if len(weights) == 1 else "maps"
        parts.append(
            "<details><summary>Its weights</summary>"
            f'<div class="{wide}">{"".join(pictures)}</div></details>'
        )
    return "\n".join([*parts, "</section>"])


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
        kernels = weights.view(len(maps), layer.size, layer.size)
        fed = f"map {k}: fed by {', '.join(map(str, maps))}"
        caption = f"filter {k}" if layer.source == "input" else fed
        pictures.append((caption, torch.cat(list(kernels), dim=1)))
    return pictures


def _parameters(count: int) -> str:
    return f"{count:,} parameters" if count else "no parameters"


def _arithmetic(found: Arithmetic) -> str:
    lines = [f"<p>{html.escape(found.where)}:</p>"]
    if found.words:
        lines.append(f"<p>{html.escape(found.words)}</p>")
    terms = found.terms
    if len(terms) > MAX_TERMS:
        terms = sorted(terms, key=lambda term: -abs(term.product))[:LARGEST]
    rows = [
        f"<tr><td>{html.escape(t.where)}</td>{_cell(t.weight)}{_cell(t.value)}{_cell(t.product)}</tr>"
        for t in terms
    ]
    if rest := len(found.terms) - len(terms):
        others = sum(t.product for t in found.terms) - sum(t.product for t in terms)
        rows.append(f"<tr><td>the {rest} other products</td><td></td><td></td>{_cell(others)}</tr>")
    if rows:
        head = '<tr><th>input</th><th class="n">weight</th><th class="n">value</th>'
        head += '<th class="n">product</th></tr>'
        if found.bias:
            rows.append(f"<tr><td>bias</td><td></td><td></td>{_cell(found.bias)}</tr>")
        rows.append(f'<tr class="sum"><td>sum</td><td></td><td></td>{_cell(found.total)}</tr>')
        lines.append(f'<div class="wide"><table>{head}{"".join(rows)}</table></div>')
    by_hand = f"{found.result:.5f}"
    if found.function:
        name = found.function.replace("a)", f"{found.total:.5f})")
        lines.append(f'<p class="formula">{html.escape(name)} = {by_hand}</p>')
    lines.append(f"<p>Calculated by hand: {by_hand}; in the network: {found.network:.5f}.</p>")
    return "".join(lines)


def _cell(value: float) -> str:
    return f'<td class="n">{value:.4f}</td>'


def _figure(values: Tensor, caption: str) -> str:
    height, width = values.shape
    scale = max(2, min(12, 96 // max(height, 1), 560 // width))
    picture = _picture(values, caption, width=width * scale)
    return f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _picture(values: Tensor, alt: str, grey: bool = False, width: int = 96) -> str:
    """Signed numbers: blue below zero, white zero, red above; each picture has its own scale."""
    values = values.detach().float()
    if grey:
        low, high = float(values.min()), float(values.max())
        shades = (values - low) / ((high - low) or 1.0) * 255
        colours = shades[..., None].expand(-1, -1, 3)
    else:
        part = (values / (float(values.abs().max()) or 1.0)).clamp(-1, 1)[..., None]
        end = torch.where(part > 0, RED, BLUE)
        colours = 255 + (end - 255) * part.abs()
    buffer = io.BytesIO()
    Image.fromarray(colours.round().to(torch.uint8).numpy()).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" width="{width}" src="data:image/png;base64,{data}">'


def _bars(values: list[float], names: list[str], percent: bool = False) -> str:
    """One bar for each value; red is above zero, blue below."""
    most = max(map(abs, values)) or 1.0
    if len(values) > 20:  # too many for a row each
        step, height = 640 / len(values), 80
        rects = "".join(
            f'<rect x="{k * step:.1f}" width="{step * 0.8:.1f}" '
            f'y="{height / 2 - max(v, 0) / most * height / 2:.1f}" '
            f'height="{abs(v) / most * height / 2:.1f}" class="{"up" if v > 0 else "down"}">'
            f"<title>unit {k}: {v:.4f}</title></rect>"
            for k, v in enumerate(values)
        )
        label = f"{len(values)} units, from {min(values):.3f} to {max(values):.3f}"
        return (
            f'<svg viewBox="0 0 640 {height}" role="img" aria-label="{label}">{rects}</svg>'
            f'<p class="quiet">{label}</p>'
        )
    rows = []
    for name, value in zip(names, values, strict=True):
        width = 100 * abs(value) / most
        text = f"{value:.1%}" if percent else f"{value:.3f}"
        side = "up" if value > 0 else "down"
        rows.append(
            f'<tr><td class="n">{html.escape(name)}</td><td class="n">{text}</td>'
            f'<td class="bar"><span class="{side}" style="width:{width:.1f}%"></span></td></tr>'
        )
    return f'<table class="bars">{"".join(rows)}</table>'
