"""The page and its HTTP interface: networks, what they compute for an image, a test set.

All answers except the page and pictures are JSON; a mistake is `{"error": "one line"}`.
"""

import io
import json
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from PIL import Image
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteError
from torch import Tensor

from lenet.cli import one_line
from lenet.commands.demo.network import Network, look, open_network
from lenet.commands.demo.walk import Walk, walk
from lenet.commands.predict import is_weights
from lenet.data.pictures import Floats, read_drawing, read_picture_bytes

PAGE = Path(__file__).parent / "page"
MOST_BYTES = 30_000_000  # of a picture
MOST_SIDE = 1000  # of a drawing, in pixels
MOST_NETWORKS = 8
NAMES = ("127.0.0.1", "localhost")  # the hosts that a request may name
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

Ids = Annotated[list[int], Query(alias="network", min_length=1, max_length=MOST_NETWORKS)]


class Source(BaseModel):
    source: Annotated[str, Field(min_length=1, max_length=200)]


class OpenNetworks:
    """The networks that the page can show, and their scores on the test set once asked for."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self.networks = list(networks)
        self.walks: dict[int, Walk] = {}
        self.lock = threading.Lock()

    def network(self, k: int) -> Network:
        if not 0 <= k < len(self.networks):
            raise HTTPException(404, f"expected a network from 0 to {len(self.networks) - 1}")
        return self.networks[k]

    def walk(self, k: int) -> Walk:
        network = self.network(k)
        with self.lock:
            if k not in self.walks:
                self.walks[k] = walk(network)
            return self.walks[k]

    def add(self, source: str) -> int:
        if is_weights(source):
            raise ValueError("expected a run or a registered model; weights go on the command line")
        with self.lock:
            network = open_network(source)
            for k, other in enumerate(self.networks):
                if other.run_id == network.run_id:
                    return k
            if len(self.networks) == MOST_NETWORKS:
                raise ValueError(f"expected at most {MOST_NETWORKS} networks at a time")
            self.networks.append(network)
            return len(self.networks) - 1

    def look_at(self, ids: Sequence[int], image: Tensor) -> Response:
        found = [{"network": k, **look(self.network(k), image)} for k in ids]
        return _json({"image": image.tolist(), "looks": found})


def make_app(networks: Sequence[Network]) -> FastAPI:
    """The application. It answers only requests to 127.0.0.1 or localhost."""
    # No /docs: that page would load scripts from another server.
    app = FastAPI(title="LeNet-5", docs_url=None, redoc_url=None)
    opened = OpenNetworks(networks)
    _protect(app)

    @app.get("/api/networks")
    def all_networks() -> list[dict[str, Any]]:
        return [{"id": k, **network.facts()} for k, network in enumerate(opened.networks)]

    @app.get("/api/networks/{k}")
    def one_network(k: int) -> Response:
        return _json({"id": k, **opened.network(k).wiring()})

    @app.post("/api/networks")
    def add_network(body: Source) -> dict[str, Any]:
        k = opened.add(body.source)
        return {"id": k, **opened.network(k).facts()}

    @app.get("/api/runs")
    def runs() -> list[dict[str, str]]:
        from lenet.tracking.read import recent

        return [{"run_id": run.run_id, "name": run.name} for run in recent(20)]

    @app.post("/api/look/drawing")
    async def look_at_drawing(request: Request, ids: Ids) -> Response:
        """Body: ink, a byte a pixel, row by row, of a square."""
        content = await _body(request, MOST_SIDE**2)
        return await run_in_threadpool(lambda: opened.look_at(ids, read_drawing(_square(content))))

    @app.post("/api/look/picture")
    async def look_at_picture(request: Request, ids: Ids) -> Response:
        """Body: a picture's file."""
        content = await _body(request, MOST_BYTES)
        return await run_in_threadpool(
            lambda: opened.look_at(ids, read_picture_bytes(content, "picture"))
        )

    @app.get("/api/look/test/{k}/{index}")
    def look_at_test_image(k: int, index: int, ids: Ids) -> Response:
        return opened.look_at(ids, _image(opened.walk(k), index))

    @app.get("/api/test/{k}")
    def test_set(
        k: int,
        truth: Annotated[int | None, Query(ge=0)] = None,
        guess: Annotated[int | None, Query(ge=0)] = None,
        right: bool | None = None,
        order: Literal["surest", "least", "set"] = "surest",
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=500)] = 60,
    ) -> dict[str, Any]:
        walked = opened.walk(k)
        index = walked.select(truth, guess, right, order)
        return {
            "count": len(index),
            "of": walked.score.count,
            "accuracy": walked.score.accuracy,
            "images": walked.rows(index[offset : offset + limit]),
        }

    @app.get("/api/test/{k}/{index}.png")
    def test_picture(k: int, index: int) -> Response:
        file = io.BytesIO()
        Image.fromarray(_image(opened.walk(k), index).numpy()).save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")

    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


def _protect(app: FastAPI) -> None:
    """Answers errors in one line, and refuses pages of other sites in the same browser."""

    @app.exception_handler(ValueError)
    @app.exception_handler(OSError)
    async def mistake(_: Request, error: Exception) -> Response:
        return _json({"error": one_line(error)}, 400)

    @app.exception_handler(RequestValidationError)
    async def wrong_question(_: Request, error: RequestValidationError) -> Response:
        parts = [f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors()]
        return _json({"error": one_line("; ".join(parts))}, 422)

    @app.exception_handler(StarletteError)
    async def refused(request: Request, error: StarletteError) -> Response:
        return _json({"error": one_line(f"{request.url.path}: {error.detail}")}, error.status_code)

    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        # Another site can point its own name at this server (DNS rebinding), or post to it.
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if urlsplit(f"//{host}").hostname not in NAMES:
            return _json({"error": f"host: expected {' or '.join(NAMES)}"}, 400)
        if origin and urlsplit(origin).netloc != host:
            return _json({"error": "origin: expected this page itself"}, 403)
        response = await answer(request)
        response.headers.update(HEADERS)
        return response


async def _body(request: Request, most: int) -> bytes:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > most:
            raise HTTPException(413, f"expected at most {most:,} bytes")
    return bytes(content)


def _square(content: bytes) -> Floats:
    side = round(len(content) ** 0.5)
    if side**2 != len(content) or not side:
        raise ValueError(f"drawing: expected a square of bytes, found {len(content):,}")
    ink = np.frombuffer(content, np.uint8).reshape(side, side)
    return ink.astype(np.float32) / np.float32(255)


def _image(walked: Walk, index: int) -> Tensor:
    """Shapes: uint8 -> (H, W)."""
    if not 0 <= index < walked.score.count:
        raise HTTPException(404, f"expected an image from 0 to {walked.score.count - 1}")
    return walked.images[index, 0]


def _json(content: Any, status: int = 200) -> Response:
    # Not FastAPI's encoder: it takes longer for ten thousand numbers than the network does.
    text = json.dumps(content, separators=(",", ":"))
    return Response(text, status, media_type="application/json")
