"""HTTP and WebSocket server, and its web page; docs/server.md describes the formats.

    >>> import uvicorn  # doctest: +SKIP
    >>> uvicorn.run(create_app(OnnxPredictor(default_model())))  # doctest: +SKIP

Clients are not trusted: the size of input is limited before it is decoded, and error messages
reveal neither files nor code.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import io
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import cv2
import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response, WebSocket
from fastapi.exceptions import WebSocketException
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from PIL import Image, ImageOps, UnidentifiedImageError
from starlette.datastructures import Headers, MutableHeaders, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect
from swagger_ui_bundle import swagger_ui_path

from .. import __version__
from ..drawing import JOINT_THRESHOLD, draw_people
from ..people import Crop, People
from ..schema import PartSchema
from .predictor import Predictor

MAX_BYTES = 10 * 2**20
MAX_PIXELS = 25_000_000
MAX_WAITING = 16  # images waiting for a thread; further ones are rejected
MAX_STREAMS = 16  # open WebSockets; each may hold two frames
# Of a progressive JPEG: a scan takes few bytes but covers the whole image. Encoders write ten.
MAX_SCANS = 100
FORMATS = ("JPEG", "PNG", "WEBP")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")  # as in browsers' Host header
_IPV6 = "["  # all that Starlette before 1.8 parses of an IPv6 address

# Only our own scripts, styles and connections, so that nothing injected can run or send data; no
# address (it may contain the token) is sent to other sites; responses are not stored.
_RESPONSE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

_PICTURE_BODY = {
    "required": True,
    "content": {
        **{
            f"image/{name.lower()}": {"schema": {"type": "string", "format": "binary"}}
            for name in FORMATS
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "string", "format": "binary"}},
            }
        },
    },
}

_DOCS_SCRIPT = (
    'SwaggerUIBundle({url: "../openapi.json", dom_id: "#swagger-ui", '
    "presets: [SwaggerUIBundle.presets.apis]});"
)

_Result = TypeVar("_Result")
_logger = logging.getLogger(__name__)


def create_app(
    predictor: Predictor,
    *,
    token: str | None = None,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    threads: int = 1,
) -> FastAPI:
    """The server as an ASGI application.

    Args:
        predictor: called in worker threads, in up to ``threads`` of them at the same time.
        token: required of requests, as ``Authorization: Bearer`` or ``?token=``. Without one only
            requests to a loopback name are answered, because any web site can point its own name
            to this machine's address (DNS rebinding).
        max_bytes: limit for an upload or a frame.
        max_pixels: limit for an image; checked before decoding.
        threads: images processed at the same time. `MAX_WAITING` more may wait.

    Raises:
        ValueError: the token is empty.
    """
    if token == "":
        raise ValueError("expected a token or None, found an empty one")
    app = FastAPI(
        title="bodyparts",
        description="Masks of body parts and skeletons, for every person in a picture.",
        version=__version__,
        docs_url=None,  # FastAPI's own page loads scripts from other sites
        redoc_url=None,
    )
    app.openapi_version = "3.0.3"  # the newest supported by the bundled Swagger UI
    if token is None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK_NAMES, _IPV6])
    app.add_middleware(_SameOrigin)

    def check_token(connection: HTTPConnection) -> None:
        scheme, _, bearer = connection.headers.get("authorization", "").partition(" ")
        given = bearer if scheme.lower() == "bearer" else connection.query_params.get("token", "")
        if token is None or hmac.compare_digest(given.encode(), token.encode()):
            return
        if connection.scope["type"] == "websocket":
            raise WebSocketException(1008, "expected the token")
        raise HTTPException(401, "expected the token", {"WWW-Authenticate": "Bearer"})

    protected = [Depends(check_token)]
    if token is not None:  # adds the "Authorize" button to the docs
        protected.append(Depends(HTTPBearer(auto_error=False)))
    workers = _Workers(threads)
    streams = 0

    def find(data: bytes) -> tuple[np.ndarray, People]:
        image = read_picture(data, max_pixels)
        try:
            return image, predictor(image)
        except Exception:
            _logger.exception("the model failed on a picture of shape %s", image.shape)
            raise HTTPException(500, "the model failed on this picture") from None

    @app.get("/healthz", summary="Whether the server runs")
    async def healthz() -> dict[str, str]:
        return {"status": "ok", "version": app.version}

    @app.get("/schema", dependencies=protected, summary="Names, colours and limits")
    async def schema() -> dict[str, Any]:
        return {
            "part_schema": predictor.part_schema.name,
            "channels": predictor.part_schema.channels,
            "colors": predictor.part_schema.colors,
            "keypoint_schema": predictor.keypoint_schema.name,
            "joints": predictor.keypoint_schema.keypoints,
            "bones": predictor.keypoint_schema.bones,
            "joint_threshold": JOINT_THRESHOLD,
            "max_bytes": max_bytes,
            "max_pixels": max_pixels,
        }

    @app.post(
        "/predict",
        dependencies=protected,
        summary="The people in a picture, as JSON or drawn",
        response_class=Response,
        responses={
            200: {
                "description": "`People.to_json()`: boxes, run-length encoded masks, joints; "
                "or the drawn picture",
                "content": {"application/json": {}, "image/png": {}},
            },
            401: {"description": "The token is missing or wrong"},
            413: {"description": "Too many bytes or pixels"},
            415: {"description": "Neither JPEG nor PNG nor WebP"},
            422: {"description": "The picture is damaged, or an option is wrong"},
            503: {"description": "Too many pictures wait; see Retry-After"},
        },
        openapi_extra={"requestBody": _PICTURE_BODY},
    )
    async def predict(
        request: Request,
        output: Annotated[Literal["json", "png"], Query(alias="format")] = "json",
        parts: bool = True,
        skeleton: bool = True,
        boxes: bool = False,
    ) -> Response:
        data = await _uploaded_picture(request, max_bytes)

        def work() -> bytes:
            image, people = find(data)
            if output == "json":
                return json.dumps(people.to_json()).encode()
            drawn = draw_people(image, people, parts=parts, skeleton=skeleton, boxes=boxes)
            return cv2.imencode(".png", drawn)[1].tobytes()

        media_type = "application/json" if output == "json" else "image/png"
        return Response(await workers.run(work), media_type=media_type)

    @app.websocket("/stream", dependencies=protected[:1])
    async def stream(socket: WebSocket) -> None:
        nonlocal streams
        await socket.accept()
        if streams >= MAX_STREAMS:
            await socket.close(1013, "too many streams")
            return

        def work(data: bytes) -> dict[str, Any]:
            start = time.perf_counter()
            answer = compact_people(find(data)[1])
            answer["milliseconds"] = round(1000 * (time.perf_counter() - start), 1)
            return answer

        async def answered(data: bytes | None) -> dict[str, Any]:
            try:
                if data is None:
                    raise HTTPException(415, "expected a binary message, found text")
                _check_size(len(data), max_bytes)
                return await workers.run(lambda: work(data))
            except HTTPException as e:
                return {"status": e.status_code, "error": e.detail}

        # The newest frame not yet processed: (its number, its bytes), or None at the end.
        newest: asyncio.Queue[tuple[int, bytes | None] | None] = asyncio.Queue(maxsize=1)
        streams += 1
        receiving = asyncio.create_task(_keep_newest(socket, newest))
        try:
            while (frame := await newest.get()) is not None:
                number, data = frame
                answer = await answered(data)
                if receiving.done():  # the client has disconnected
                    return
                await socket.send_json({"frame": number, **answer})
        except WebSocketDisconnect:
            pass  # while the answer was being sent
        finally:
            receiving.cancel()
            streams -= 1

    @app.get("/docs", include_in_schema=False)
    async def docs() -> RedirectResponse:
        return RedirectResponse("docs/")

    @app.get("/docs/swagger-initializer.js", include_in_schema=False)
    async def docs_script() -> Response:
        return Response(_DOCS_SCRIPT, media_type="text/javascript")

    app.mount("/docs", StaticFiles(directory=swagger_ui_path, html=True))
    app.mount("/", StaticFiles(directory=Path(__file__).with_name("page"), html=True))
    return app


def read_picture(data: bytes, max_pixels: int) -> np.ndarray:
    """Decode an untrusted image.

    Args:
        data: a complete file in one of ``FORMATS``.
        max_pixels: images with more, or with more than Pillow allows, are rejected by their header.

    Returns:
        (H, W, 3) BGR uint8, rotated upright by its EXIF orientation, as in viewers and OpenCV.

    Raises:
        HTTPException: with the status and message of the answer.
    """
    if not data:
        raise HTTPException(400, "expected a picture, found nothing")
    max_pixels = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
    too_large = HTTPException(413, f"expected at most {max_pixels / 1e6:g} megapixels")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise too_large
            # In a scan's data no byte 0xFF is followed by this marker's code.
            if data[:2] == b"\xff\xd8" and data.count(b"\xff\xda") > MAX_SCANS:
                raise HTTPException(422, f"expected at most {MAX_SCANS} scans")
            # Pillow would clip 16-bit grey (mode "I" before Pillow 11) instead of scaling it.
            if image.mode.startswith("I"):
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except HTTPException:
        raise
    except Image.DecompressionBombError:  # Pillow has a limit of its own
        raise too_large from None
    except UnidentifiedImageError:
        raise HTTPException(415, "expected a JPEG, PNG or WebP picture") from None
    except Exception:  # on damaged data Pillow's decoders raise nearly anything
        raise HTTPException(422, "the picture is damaged or cut off") from None
    return np.ascontiguousarray(np.asarray(upright)[:, :, ::-1])


def compact_people(people: People) -> dict[str, Any]:
    """People as sent by ``/stream``: more compact than `People.to_json`, and easy to draw.

    Returns:
        ``image_size`` [H, W] and ``people``, each with ``box`` (XYXY) and ``score``; with masks,
        ``mask`` and ``origin`` [x, y], its first pixel: a base64 PNG of the person's crop (None if
        it is empty) with a palette of the channels' colours, whose values are channel indices (0 =
        body without a part; the number of channels, transparent = outside the body); with
        keypoints, ``joints``, [[x, y, score], ...]. Coordinates are continuous.
    """
    answer = []
    for person in people:
        one: dict[str, Any] = {
            "box": [round(float(v), 1) for v in person.box],
            "score": round(float(person.score), 3),
        }
        if person.part_probs is not None:
            crop = person.crop()
            one["origin"] = [crop.x0, crop.y0]
            one["mask"] = _mask_png(crop, people.part_schema) if crop.body.size else None
        if person.keypoints is not None:
            one["joints"] = [
                [round(float(x), 1), round(float(y), 1), round(float(score), 3)]
                for x, y, score in person.keypoints
            ]
        answer.append(one)
    return {"image_size": list(people.image_size), "people": answer}


def _mask_png(crop: Crop, schema: PartSchema) -> str:
    outside = len(schema.channels)
    image = Image.fromarray(np.where(crop.body, crop.labels, outside).astype(np.uint8))
    image.putpalette([value for color in (*schema.colors, (0, 0, 0)) for value in color])
    file = io.BytesIO()
    image.save(file, "PNG", transparency=outside, compress_level=1)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise HTTPException(413, f"expected at most {max_bytes / 2**20:g} megabytes")


async def _uploaded_picture(request: Request, max_bytes: int) -> bytes:
    """The request's body, or the file of a form; reading stops once it is too long."""

    async def chunks() -> AsyncIterator[bytes]:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            _check_size(size, max_bytes)
            yield chunk

    try:
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            form = await MultiPartParser(request.headers, chunks(), max_files=1).parse()
            try:
                files = [value for value in form.values() if isinstance(value, UploadFile)]
                if not files:
                    raise HTTPException(400, "expected a file in the form, found none")
                return await files[0].read()
            finally:
                await form.close()
        return b"".join([chunk async for chunk in chunks()])
    except MultiPartException as e:
        raise HTTPException(400, e.message) from None
    except ClientDisconnect:  # nobody reads the answer, but it is not an error of the server
        raise HTTPException(400, "the upload ended early") from None


async def _keep_newest(
    socket: WebSocket, newest: asyncio.Queue[tuple[int, bytes | None] | None]
) -> None:
    """Receive frames until the client disconnects; a waiting frame is replaced by the next."""
    number = 0
    while True:
        message = await socket.receive()
        gone = message["type"] == "websocket.disconnect"
        if newest.full():
            newest.get_nowait()
        newest.put_nowait(None if gone else (number, message.get("bytes")))
        if gone:
            return
        number += 1


class _Workers:
    """Worker threads with a bounded queue."""

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, "bodyparts")
        self._places = threads + MAX_WAITING

    async def run(self, work: Callable[[], _Result]) -> _Result:
        """Run work in a thread. Raises ``HTTPException`` 503 if the queue is full."""
        if self._places == 0:
            raise HTTPException(503, "too many pictures are waiting", {"Retry-After": "1"})
        self._places -= 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        finally:
            self._places += 1


class _SameOrigin:
    """Rejects requests from other sites' pages and adds ``_RESPONSE_HEADERS`` to all responses.

    Browsers let any page open WebSockets and send forms to any address, but send the page's Origin.
    Other clients send none.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                MutableHeaders(scope=message).update(_RESPONSE_HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        origin = headers.get("origin")
        target = self._app
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            target = JSONResponse({"detail": "asked by a page of another origin"}, 403)
        await target(scope, receive, send_with_headers)
