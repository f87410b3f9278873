"""The page and its HTTP interface: networks, what they compute for an image, a test set.

All answers except the page and pictures are JSON; a mistake is `{"error": "one line"}`.
"""

import io
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import numpy as np
from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from PIL import Image
from starlette.exceptions import HTTPException as StarletteError
from starlette.middleware.trustedhost import TrustedHostMiddleware
from torch import Tensor

from lenet.cli import one_line
from lenet.commands.demo.answers import answers_of
from lenet.commands.demo.network import Network, open_network
from lenet.commands.predict import is_weights
from lenet.data.inputs import Inputs
from lenet.data.pictures import Reading, read_drawing, read_picture_bytes

PAGE = Path(__file__).parent / "page"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def make_app(networks: Sequence[Network]) -> FastAPI:
    """The application. It answers only requests to 127.0.0.1 or localhost."""
    errors = (ValueError, OSError, RequestValidationError, StarletteError)
    # No /docs: that page would load scripts from another server.
    app = FastAPI(docs_url=None, redoc_url=None, exception_handlers=dict.fromkeys(errors, refuse))
    app.state.networks = list(networks)
    app.middleware("http")(guard)
    # Another site can point its own name at this server (DNS rebinding).
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    app.include_router(api)
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


async def refuse(_: Request, error: Exception) -> Response:
    """The error in one line."""
    status, text = 400, str(error)
    if isinstance(error, StarletteError):
        status, text = error.status_code, error.detail
    elif isinstance(error, RequestValidationError):
        parts = [f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors()]
        status, text = 422, "; ".join(parts)
    return JSONResponse({"error": one_line(text)}, status)


async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuses requests that pages of other sites make in the same browser."""
    origin = request.headers.get("origin")
    if origin and urlsplit(origin).netloc != request.headers["host"]:
        return JSONResponse({"error": "origin: expected this page itself"}, 403)
    response = await answer(request)
    response.headers.update(HEADERS)
    return response


# ---- What the requests name --------------------------------------------------------------------


def all_networks(request: Request) -> list[Network]:
    found: list[Network] = request.app.state.networks
    return found


Networks = Annotated[list[Network], Depends(all_networks)]


def network_of(k: int, networks: Networks) -> Network:
    if not 0 <= k < len(networks):
        raise HTTPException(404, f"expected a network from 0 to {len(networks) - 1}")
    return networks[k]


def chosen_networks(
    networks: Networks, ids: Annotated[list[int], Query(alias="network", min_length=1)]
) -> dict[int, Network]:
    return {k: network_of(k, networks) for k in ids}


async def body_of(request: Request) -> bytes:
    return await request.body()


OneNetwork = Annotated[Network, Depends(network_of)]
Chosen = Annotated[dict[int, Network], Depends(chosen_networks)]
Content = Annotated[bytes, Depends(body_of)]


# ---- The answers -------------------------------------------------------------------------------

api = APIRouter(prefix="/api")


@api.get("/networks")
def list_networks(networks: Networks) -> list[dict[str, Any]]:
    return [{"id": k, **network.facts()} for k, network in enumerate(networks)]


@api.get("/networks/{k}")
def show_wiring(k: int, network: OneNetwork) -> Response:
    return JSONResponse({"id": k, **network.wiring()})


@api.post("/networks")
def add_network(source: Annotated[str, Body(embed=True)], networks: Networks) -> dict[str, Any]:
    if is_weights(source):
        raise ValueError("expected a run or a registered model; weights go on the command line")
    network = open_network(source)
    ids = [each.run_id for each in networks]
    if network.run_id not in ids:
        networks.append(network)
        ids.append(network.run_id)
    return {"id": ids.index(network.run_id), **network.facts()}


@api.get("/runs")
def list_runs() -> list[dict[str, str]]:
    from lenet.tracking.read import recent

    return [{"run_id": run.run_id, "name": run.name} for run in recent(20)]


@api.post("/look/drawing")
def look_at_drawing(content: Content, chosen: Chosen) -> Response:
    """Body: ink, a byte a pixel, row by row, of a square."""
    side = round(len(content) ** 0.5)
    if side**2 != len(content) or not side:
        raise ValueError(f"drawing: expected a square of bytes, found {len(content):,}")
    ink = np.frombuffer(content, np.uint8).reshape(side, side).astype(np.float32) / np.float32(255)
    return look_at(lambda inputs: read_drawing(ink, inputs.form, inputs.in_channels), chosen)


@api.post("/look/picture")
def look_at_picture(content: Content, chosen: Chosen, name: str = "picture") -> Response:
    """Body: a picture's file. An error begins with its name."""
    return look_at(
        lambda inputs: read_picture_bytes(content, name, inputs.form, inputs.in_channels), chosen
    )


@api.get("/look/test/{k}/{index}")
def look_at_test_image(network: OneNetwork, index: int, chosen: Chosen) -> Response:
    image = test_image(network, index)
    return look_at(lambda inputs: Reading(image), chosen)


@api.get("/test/{k}")
def show_test_set(
    network: OneNetwork,
    truth: int | None = None,
    guess: int | None = None,
    right: bool | None = None,
    order: Literal["surest", "least", "set"] = "surest",
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1)] = 60,
) -> dict[str, Any]:
    answers = answers_of(network)
    rows = answers.select({"truth": truth, "guess": guess, "right": right}, order)
    return {
        "count": len(rows),
        "of": len(answers.rows),
        "accuracy": float(answers.rows.right.mean()),
        "images": rows[offset : offset + limit].to_dict("records"),
    }


@api.get("/test/{k}/{index}.png")
def show_test_image(network: OneNetwork, index: int) -> Response:
    file = io.BytesIO()
    image = test_image(network, index)
    pixels = image.permute(1, 2, 0) if image.ndim == 3 else image
    Image.fromarray(pixels.numpy()).save(file, "PNG")
    return Response(file.getvalue(), media_type="image/png")


def look_at(read: Callable[[Inputs], Reading], chosen: dict[int, Network]) -> Response:
    """`read` gives the image as those of a network's set are."""
    readings = {k: read(network.inputs) for k, network in chosen.items()}
    looks = [{"network": k, **network.look(readings[k].image)} for k, network in chosen.items()]
    first = next(iter(chosen))
    has_dark_ink = chosen[first].inputs.form.ground == 255
    image, remark = readings[first]
    grey = image.float().mean(0).byte() if image.ndim == 3 else image
    ink = 255 - grey if has_dark_ink else grey
    # Not a dictionary: FastAPI takes longer to encode it than the network to compute it.
    return JSONResponse({"ink": ink.tolist(), "remark": remark, "looks": looks})


def test_image(network: Network, index: int) -> Tensor:
    """Shapes: uint8 -> (H, W), or (C, H, W) of a set in colour."""
    images = answers_of(network).images
    if not 0 <= index < len(images):
        raise HTTPException(404, f"expected an image from 0 to {len(images) - 1}")
    return images[index].squeeze(0)
