"""The server over real sockets, with a predictor that the tests control."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from detectron2_bodyparts.commands.serve import listen
from detectron2_bodyparts.drawing import draw_people
from detectron2_bodyparts.people import People
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17

for module in ("fastapi", "uvicorn", "websockets", "python_multipart", "swagger_ui_bundle"):
    pytest.importorskip(module, reason=f"needs detectron2_bodyparts[serve]: no {module}")
httpx = pytest.importorskip("httpx", reason="requests are made with httpx, which is not installed")
import uvicorn  # noqa: E402
from fastapi import HTTPException  # noqa: E402
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

from detectron2_bodyparts.deploy.server import (  # noqa: E402
    MAX_STREAMS,
    MAX_WAITING,
    create_app,
    read_picture,
)

MAX_BYTES = 2**20
MAX_PIXELS = 1_000_000
TIMEOUT = 20  # seconds, after which a test has failed


class FakePredictor:
    """One person in the left half of every picture, a quarter of the box to their right empty:
    the upper half is head, the lower torso."""

    part_schema = BODYPARTS_7
    keypoint_schema = COCO_17

    def __init__(self) -> None:
        self.images: list[np.ndarray] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(self, image: np.ndarray) -> People:
        self.images.append(image)
        assert self.may_go_on.wait(TIMEOUT)
        if image[0, 0].tolist() == [13, 13, 13]:
            raise RuntimeError("/secret/path")
        height, width = image.shape[:2]
        parts = np.zeros((1, 7, 4, 4), np.float32)
        parts[:, 0, :, :3] = 1
        parts[:, 1, :2] = parts[:, 2, 2:] = 1
        joints = np.tile(np.float32([width / 4, height / 2, 0.5]), (1, 17, 1))
        boxes = np.float32([[0, 0, width / 2, height]])
        return People(
            (height, width), boxes, np.float32([0.9]), parts, joints, BODYPARTS_7, COCO_17
        )


@contextmanager
def running(predictor: FakePredictor, token: str | None = None) -> Iterator[str]:
    """A live server in a thread; gives host:port."""
    app = create_app(predictor, token=token, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS)
    config = uvicorn.Config(app, log_level="warning", log_config=None)  # to the root, for caplog
    server = uvicorn.Server(config)
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            predictor.may_go_on.set()
            server.should_exit = True
            thread.join(TIMEOUT)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def module_server():
    predictor = FakePredictor()
    with running(predictor) as address:
        yield predictor, address


@pytest.fixture
def predictor(module_server) -> FakePredictor:
    predictor = module_server[0]
    predictor.images.clear()
    return predictor


@pytest.fixture
def address(module_server) -> Iterator[str]:
    """Of a server that must still answer after the test."""
    predictor, address = module_server
    yield address
    predictor.may_go_on.set()
    answer = httpx.post(f"http://{address}/predict", content=picture(), timeout=TIMEOUT)
    assert answer.status_code == 200


@pytest.fixture
def client(address) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{address}", timeout=TIMEOUT) as client:
        yield client


def picture(
    shape: tuple[int, int] = (60, 80), grey: int = 100, kind: str = "PNG", **options
) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((*shape, 3), grey, np.uint8)).save(file, kind, **options)
    return file.getvalue()


def noisy_jpeg() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def jpeg_of_many_scans() -> bytes:
    """The last scan of a progressive JPEG a thousand times more."""
    data = picture(kind="JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + 1000 * last + data[-2:]


def png_that_claims(width: int, height: int) -> bytes:
    """A whole PNG of one bit a pixel, all zero: a few bytes that decode to many."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        sum_ = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + sum_

    rows = zlib.compress(bytes((1 + width // 8) * height), 9)
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    header = chunk(b"IHDR", size + bytes([1, 0, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@contextmanager
def stream(address: str, query: str = "", **options):
    options = {"open_timeout": TIMEOUT, "max_size": None, **options}
    with connect(f"ws://{address}/stream{query}", **options) as ws:
        yield ws


def receive(ws) -> dict:
    return json.loads(ws.recv(TIMEOUT))


def until(condition) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_a_picture_gives_json(client, predictor):
    found = client.post("/predict", content=picture())
    assert found.headers["content-type"] == "application/json"
    expected = FakePredictor()(predictor.images[-1]).to_json()
    assert found.json() == json.loads(json.dumps(expected))
    form = client.post("/predict", files={"file": ("my.png", picture())})
    assert form.json() == found.json()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pictures_arrive_in_bgr(client, predictor, kind):
    file = io.BytesIO()
    Image.new("RGB", (80, 60), (250, 100, 20)).save(file, kind, quality=95)
    assert client.post("/predict", content=file.getvalue()).status_code == 200
    assert predictor.images[-1].shape == (60, 80, 3)
    assert np.allclose(predictor.images[-1], (20, 100, 250), atol=4)


def test_a_picture_is_drawn_as_asked(client, predictor):
    answer = client.post("/predict?format=png&skeleton=false&boxes=true", content=picture())
    assert answer.headers["content-type"] == "image/png"
    image = predictor.images[-1]
    people = FakePredictor()(image)
    expected = draw_people(image, people, skeleton=False, boxes=True)
    assert not np.array_equal(expected, draw_people(image, people, boxes=True))
    drawn = np.asarray(Image.open(io.BytesIO(answer.content)))[:, :, ::-1]
    assert np.array_equal(drawn, expected)


def test_pictures_are_turned_upright(client, predictor):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to show
    answer = client.post("/predict", content=picture((60, 80), kind="JPEG", exif=exif))
    assert answer.json()["image_size"] == [80, 60]


def test_sixteen_bit_grey_is_scaled(client, predictor):
    file = io.BytesIO()
    Image.fromarray(np.full((60, 80), 100 * 256, np.uint16)).save(file, "PNG")
    assert client.post("/predict", content=file.getvalue()).status_code == 200
    assert (predictor.images[-1] == 100).all()


HOSTILE = {
    "nothing": (b"", 400),
    "text": (b"This is no picture.", 415),
    "a picture of another format": (picture(kind="BMP"), 415),
    "a cut JPEG": (noisy_jpeg()[:-500], 422),
    "a cut PNG": (picture()[:-40], 422),
    "100 megapixels": (png_that_claims(10_000, 10_000), 413),
    "more than Pillow opens": (png_that_claims(20_000, 20_000), 413),
    "one row too many": (png_that_claims(1000, 1001), 413),
    "too many scans": (jpeg_of_many_scans(), 422),
    "too many bytes": (bytes(MAX_BYTES + 1), 413),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_pictures_are_refused(client, predictor, address, what):
    data, status = HOSTILE[what]
    answers = [client.post("/predict", content=data)]
    answers.append(client.post("/predict", files={"file": ("name.png", data)}))
    for answer in answers:
        assert answer.status_code == status
        # Pillow's words for a damaged picture would be longer, and might name a file.
        assert list(answer.json()) == ["detail"] and len(answer.json()["detail"]) < 60
    assert predictor.images == []
    with stream(address) as ws:
        ws.send(data)
        assert receive(ws) == {"frame": 0, "status": status, **error_of(answers[0])}
        ws.send(picture())  # the socket goes on
        assert receive(ws)["people"]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_that_is_said_is_the_one_that_holds():
    with pytest.raises(HTTPException, match="at most 178.957 megapixels"):
        read_picture(png_that_claims(20_000, 20_000), max_pixels=500_000_000)


def test_an_empty_token_protects_nothing_and_is_refused(predictor):
    with pytest.raises(ValueError, match="token"):
        create_app(predictor, token="")


def error_of(answer: httpx.Response) -> dict[str, str]:
    return {"error": answer.json()["detail"]}


def test_the_largest_allowed_picture(client, predictor):
    assert client.post("/predict", content=png_that_claims(1000, 1000)).status_code == 200
    assert predictor.images[-1].shape == (1000, 1000, 3)


def test_progressive_pictures_are_no_fault(client):
    whole = picture(kind="JPEG", progressive=True)
    assert client.post("/predict", content=whole).status_code == 200


def test_an_endless_upload_is_refused_before_its_end(address):
    """It declares no length."""
    with socket.create_connection(address.split(":"), timeout=TIMEOUT) as raw:
        raw.sendall(
            b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(MAX_BYTES // 2**16 + 1):
            raw.sendall(b"10000\r\n" + bytes(2**16) + b"\r\n")
        assert raw.recv(2**16).startswith(b"HTTP/1.1 413")


def test_ten_thousand_random_strings(client, address):
    rng = np.random.default_rng(0)
    magic = [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\x20\0\0\0WEBPVP8 "]
    whole = [noisy_jpeg(), picture(), picture(kind="WEBP")]
    statuses = set()
    with stream(address, compression=None) as ws:
        for i in range(10_000):
            if i % 10:
                data = magic[i % 4] + rng.bytes(int(rng.integers(0, 200)))
            else:  # a real picture with bytes changed
                changed = bytearray(whole[i // 10 % 3])
                for place in rng.integers(0, len(changed), 8):
                    changed[place] = rng.integers(256)
                data = bytes(changed)
            ws.send(data)
            answer = receive(ws)
            assert answer["frame"] == i
            statuses.add(answer.get("status", 200))
            if i % 15 == 0:  # of either kind; by HTTP as well, which takes four times as long
                status = client.post("/predict", content=data).status_code
                assert status == answer.get("status", 200)
    assert statuses <= {200, 400, 413, 415, 422} and {200, 415, 422} <= statuses


def test_faults_of_forms_and_options_are_named(client):
    answer = client.post("/predict", data={"file": "text"}, files={"x": ("", b"")})
    assert answer.status_code == 400
    answer = client.post(
        "/predict", content=b"no parts", headers={"Content-Type": "multipart/form-data"}
    )
    assert answer.status_code == 400 and "boundary" in answer.json()["detail"]
    answer = client.post("/predict?format=gif", content=picture())
    assert answer.status_code == 422 and "'json' or 'png'" in answer.text
    assert client.get("/nothing").json() == {"detail": "Not Found"}


def test_a_failing_model_tells_nothing(client, address, caplog, monkeypatch):
    # Where training has run in this process, Detectron2 has set up the package's logger.
    monkeypatch.setattr(logging.getLogger("detectron2_bodyparts"), "propagate", True)
    with caplog.at_level(logging.ERROR):
        answer = client.post("/predict", content=picture(grey=13))
    assert answer.status_code == 500
    assert answer.json() == {"detail": "the model failed on this picture"}
    assert "content-security-policy" in answer.headers
    assert "/secret/path" in caplog.text  # the operator is told
    with stream(address) as ws:
        ws.send(picture(grey=13))
        assert receive(ws) == {"frame": 0, "status": 500, **error_of(answer)}


@pytest.mark.parametrize("path", ["../server.py", "..%2fserver.py", "docs/..%2f..%2f__init__.py"])
def test_no_other_file_is_served(address, path):
    with socket.create_connection(address.split(":"), timeout=TIMEOUT) as raw:
        raw.sendall(f"GET /{path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(2**16), b""))
    assert answer.startswith(b"HTTP/1.1 404") and b"import" not in answer


def test_the_stream_gives_what_the_page_draws(address, predictor):
    with stream(address) as ws:
        ws.send(picture((60, 80)))
        answer = receive(ws)
    assert answer.pop("milliseconds") > 0
    [person] = answer.pop("people")
    assert answer == {"frame": 0, "image_size": [60, 80]}
    assert person["box"] == [0, 0, 40, 60] and person["score"] == 0.9
    assert person["joints"] == [[20, 30, 0.5]] * 17
    mask = Image.open(io.BytesIO(base64.b64decode(person["mask"])))
    assert person["origin"] == [0, 0] and mask.size == (40, 60)
    crop = FakePredictor()(predictor.images[-1])[0].crop()
    outside = len(BODYPARTS_7.channels)
    assert np.array_equal(np.asarray(mask), np.where(crop.body, crop.labels, outside))
    assert {1, 2, outside} <= set(np.unique(mask))
    # A browser draws it as it is.
    drawn = mask.convert("RGBA")
    assert drawn.getpixel((15, 15)) == (*BODYPARTS_7.colors[1], 255)
    assert drawn.getpixel((38, 15))[3] == 0


def test_of_frames_that_wait_the_newest_is_answered(address, predictor):
    predictor.may_go_on.clear()
    with stream(address) as ws:
        ws.send(picture(grey=50))
        until(lambda: len(predictor.images) == 1)
        for grey in (60, 70, 80, 90):
            ws.send(picture(grey=grey))
        # The server answers a ping after the frames before it, and then takes them in one go.
        assert ws.ping().wait(TIMEOUT)
        assert httpx.get(f"http://{address}/healthz").json()["status"] == "ok"
        predictor.may_go_on.set()
        assert [receive(ws)["frame"] for _ in range(2)] == [0, 4]
        assert [image[0, 0, 0] for image in predictor.images] == [50, 90]


def test_text_is_no_frame(address):
    with stream(address) as ws:
        ws.send("hello")
        assert receive(ws)["status"] == 415
        ws.send(picture())
        assert receive(ws)["frame"] == 1


def test_two_clients_at_once_get_their_own_answers(address):
    def sizes(widths: list[int]) -> list[int]:
        with stream(address) as ws:
            found = []
            for width in widths:
                ws.send(picture((20, width)))
                found.append(receive(ws)["image_size"][1])
            return found

    widths = [list(range(20, 40)), list(range(60, 80))]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(sizes, widths)) == widths


@pytest.mark.parametrize("when", ["mid-frame", "mid-answer", "mid-upload"])
def test_a_client_that_vanishes(address, predictor, when, caplog):
    """Those that follow are served, and it is no fault to log."""
    with caplog.at_level(logging.ERROR):
        if when == "mid-upload":
            raw = socket.create_connection(address.split(":"), timeout=TIMEOUT)
            raw.sendall(
                b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999\r\n\r\n."
            )
            raw.close()
        else:
            predictor.may_go_on.clear()
            ws = connect(f"ws://{address}/stream")
            if when == "mid-frame":
                ws.socket.sendall(b"\x82\xfe\x20\x00abcd and not much of 8192 bytes")
            else:
                ws.send(picture())
                until(lambda: predictor.images)
            ws.socket.shutdown(socket.SHUT_RDWR)
            predictor.may_go_on.set()
        with stream(address) as ws:
            ws.send(picture())
            assert receive(ws)["people"]
        time.sleep(0.2)
    assert caplog.records == []


def test_too_much_at_once_is_refused():
    predictor = FakePredictor()
    predictor.may_go_on.clear()
    with running(predictor) as address:

        async def post_at_once() -> list[httpx.Response]:
            async with httpx.AsyncClient(base_url=f"http://{address}", timeout=TIMEOUT) as client:
                posts = [client.post("/predict", content=picture()) for _ in range(MAX_WAITING + 4)]
                answers = []
                for post in asyncio.as_completed(posts):
                    answers.append(await post)
                    if len(answers) == 3:  # one is in work, the others wait
                        predictor.may_go_on.set()
                return answers

        answers = asyncio.run(post_at_once())
    assert [a.status_code for a in answers] == [503] * 3 + [200] * (MAX_WAITING + 1)
    assert answers[0].headers["retry-after"] == "1"


def test_too_many_streams_are_refused_and_closed_ones_leave_room():
    with running(FakePredictor()) as address:
        streams = [connect(f"ws://{address}/stream") for _ in range(MAX_STREAMS)]
        with stream(address) as ws, pytest.raises(ConnectionClosed) as closed:
            ws.recv(TIMEOUT)
        assert closed.value.rcvd.code == 1013
        for ws in streams:
            ws.close()
        with stream(address) as ws:
            ws.send(picture())
            assert receive(ws)["people"]


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}],
    ids=["another site's page", "a sandboxed page", "DNS rebinding"],
)
def test_pages_from_elsewhere_reach_nothing(client, address, predictor, headers):
    status = 400 if "Host" in headers else 403
    assert client.post("/predict", content=picture(), headers=headers).status_code == status
    assert client.get("/", headers=headers).status_code == status
    with socket.create_connection(address.split(":"), timeout=TIMEOUT) as raw:
        fields = {
            "Host": address,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
            "Sec-WebSocket-Version": "13",
            **headers,
        }
        lines = ["GET /stream HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        raw.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        assert raw.recv(100).startswith(f"HTTP/1.1 {status}".encode())
    assert predictor.images == []


def test_our_own_page_is_no_stranger(client, address):
    own = {"Origin": f"http://{address}"}
    assert client.post("/predict", content=picture(), headers=own).status_code == 200
    with stream(address, origin=own["Origin"]) as ws:
        ws.send(picture())
        assert receive(ws)["people"]


def test_a_token_is_wanted_for_all_but_the_page():
    with (
        running(FakePredictor(), token="a b&c") as address,
        httpx.Client(base_url=f"http://{address}", timeout=TIMEOUT) as client,
    ):
        right, query = {"Authorization": "Bearer a b&c"}, {"token": "a b&c"}
        for wrong in ({}, {"Authorization": "Bearer a b&"}, {"Authorization": "Basic x"}):
            answer = client.post("/predict", content=picture(), headers=wrong)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/schema").status_code == 401
        assert client.get("/schema", headers=right).status_code == 200
        assert client.post("/predict", content=picture(), params=query).status_code == 200
        # Whoever knows it may come by any name.
        assert client.get("/healthz", headers={"Host": "host.example"}).status_code == 200
        assert client.get("/").status_code == client.get("/page.js").status_code == 200
        for given in ("", "?token=", "?token=x"):
            with pytest.raises(InvalidStatus), stream(address, given):
                pass
        with stream(address, "?token=a%20b%26c") as ws:
            ws.send(picture())
            assert receive(ws)["people"]


def test_the_schema_names_what_answers_hold(client):
    schema = client.get("/schema").json()
    assert schema["channels"] == list(BODYPARTS_7.channels)
    assert schema["colors"] == [list(color) for color in BODYPARTS_7.colors]
    assert schema["joints"] == list(COCO_17.keypoints)
    assert schema["bones"] == [list(bone) for bone in COCO_17.bones]
    assert (schema["max_bytes"], schema["max_pixels"]) == (MAX_BYTES, MAX_PIXELS)


def test_every_answer_keeps_scripts_out(client):
    for path in ("/", "/page.css", "/healthz", "/nothing", "/docs/"):
        headers = client.get(path).headers
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_openapi_says_how_to_upload(client):
    api = client.get("/openapi.json").json()
    body = api["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert set(body) == {"image/jpeg", "image/png", "image/webp", "multipart/form-data"}
    assert client.get("/docs", follow_redirects=True).url.path == "/docs/"
