"""The page that predicts: a real server, a real browser, and uploads that are no images or no friends."""

import base64
import contextlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image

from featcache.base.errors import InvalidSettings
from head.calibration.intervals import half_width
from head.prediction.predictor import Predictor
from head.runs.head_file import load_head
from head.runs.run import read_run
from head.show.page.gallery import pack_maps
from head.show.page.live import app, server
from head.show.page.live.app import MOST_BYTES, MOST_WAITING, explore_app, refusal
from head.show.page.live.explore import predict_bytes
from head.show.page.live.server import bound_socket, host_names, is_loopback, url_of
from tests.helpers.browser import needs_chromium, opened_page, running_chromium
from tests.helpers.command_line import amnet
from tests.helpers.processes import COMMAND_LINE, Forked

GALLERY = "JSON.parse(document.getElementById('data').textContent).gallery"
BINARY = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def run(tiny_runs: Path) -> Path:
    return tiny_runs / "tiny" / "paper" / "split-1"


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return Predictor.load(run)


@pytest.fixture(scope="module")
def photograph(tiny_dataset: Path) -> Path:
    return tiny_dataset / "images" / "07.jpg"


def started(*arguments: object, folder: Path) -> Forked:
    """Start explore in a process of its own, whose temporary files are in folder."""
    return Forked(COMMAND_LINE, "explore", *arguments, env={**os.environ, "TMPDIR": str(folder)})


@pytest.fixture(scope="module")
def served(run: Path, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of explore with a cache, which all tests ask.

    What it printed and left behind is checked when they are done: no name of a file, and no file.
    """
    folder = tmp_path_factory.mktemp("temporary")
    runs = shutil.copytree(run.parents[2], tmp_path_factory.mktemp("runs") / "runs")  # scoring writes into them
    process = started("--head", run, "--cache", tiny_cache, "--runs", runs, folder=folder)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url), process.communicate(timeout=10)
    try:
        yield url
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, "")
        said = "explore: .*|scores have no prediction interval: .*|"
        said += r"thumbnails: \d+ of \d+ images|warning: \w+: .* are outside .*"
        assert re.fullmatch(f"(({said})\n)+", err)
        assert list(folder.iterdir()) == []
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_chromium() as chromium:
        yield chromium


def ask(
    url: str, data: bytes = b"", headers: dict[str, str] = BINARY, *, method: str = "POST", path: str = "/predict"
) -> tuple[int, Any]:
    """Return status and JSON of an answer."""
    connection = http.client.HTTPConnection(url.removeprefix("http://").rstrip("/"), timeout=60)
    connection.request(method, path, data, headers)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


def test_bytes_get_what_predict_says_of_the_file(predictor: Predictor, photograph: Path) -> None:
    (wanted,) = predictor.predict([photograph])
    found = predict_bytes(predictor, photograph.read_bytes())
    assert found["score"] == pytest.approx(wanted.score, abs=1e-6)
    assert found["steps"] == pytest.approx(list(wanted.step_scores), abs=1e-6)
    assert found["in_training"] == wanted.in_training
    attention = predictor(photograph).attention
    assert attention is not None
    packed = pack_maps(attention)
    assert packed is not None
    assert found["maps"] == packed.as_json()
    assert packed.high == pytest.approx(attention.max(), abs=1e-6)
    assert packed.levels.argmax() == attention.argmax()


def test_a_score_outside_the_range_of_training_is_marked(run: Path, photograph: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    for low, marked in ((-9, False), (8, True)):
        config["result"]["score_range"] = [low, 9]
        (tmp_path / "run" / "config.json").write_text(json.dumps(config))
        predictor = Predictor.load(tmp_path / "run")
        notes = predict_bytes(predictor, photograph.read_bytes())["notes"]
        assert any(note.startswith("The score is outside 8 to 9, the range of the ratings") for note in notes) == marked
        assert predictor(photograph).outside_range == marked


def test_a_photograph_on_its_side_is_seen_upright_once(predictor: Predictor, photograph: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "side.jpg"
    with Image.open(photograph) as image:
        image.save(path, exif=exif)
    found = predict_bytes(predictor, path.read_bytes())
    with Image.open(photograph) as image:
        assert found["size"] == list(image.size[::-1])
    assert found["score"] == pytest.approx(predictor.predict([path])[0].score, abs=1e-6)


def test_a_head_knows_the_images_it_was_trained_on(predictor: Predictor, tiny_dataset: Path) -> None:
    name = (tiny_dataset / "splits" / "train_1.txt").read_text().split()[0]
    assert predict_bytes(predictor, (tiny_dataset / "images" / name).read_bytes())["in_training"] is True


def test_several_runs_answer_with_their_mean(run: Path, predictor: Predictor, photograph: Path) -> None:
    members = Predictor.load(run.parent)
    (wanted,) = members.predict([photograph])
    found = predict_bytes(members, photograph.read_bytes())
    assert (found["score"], found["deviation"]) == pytest.approx((wanted.score, wanted.deviation), abs=1e-6)
    assert sum(found["steps"]) == pytest.approx(wanted.score, abs=1e-6)
    assert (found["in_training"], found["trained_members"]) == (wanted.in_training, wanted.trained_members)
    attention = members(photograph).attention
    assert attention is not None
    packed = pack_maps(attention)
    assert packed is not None
    assert found["maps"] == packed.as_json()
    assert predict_bytes(predictor, photograph.read_bytes())["deviation"] is None


def test_the_answer_has_the_bounds_of_the_score(run: Path, photograph: Path) -> None:
    found = predict_bytes(Predictor.load(run, level=0.5), photograph.read_bytes())  # by the residuals of 7 images
    width = half_width(load_head(read_run(run)).residuals, 0.5)
    assert (found["lower"], found["upper"]) == pytest.approx((found["score"] - width, found["score"] + width))
    assert found["level"] == 0.5
    assert predict_bytes(Predictor.load(run), photograph.read_bytes())["lower"] is None


def test_what_to_know_of_an_image_is_in_the_answer(predictor: Predictor, photograph: Path) -> None:
    assert predict_bytes(predictor, photograph.read_bytes())["notes"] == []
    data = io.BytesIO()
    Image.fromarray(np.full((9, 9), 4095, np.uint16)).save(data, "PNG")
    few, small, *_ = predict_bytes(predictor, data.getvalue())["notes"]
    assert few.startswith("No value above 4,095 of 65,535, as in 12-bit data; read as 16-bit data. All 16-bit data are")
    assert small.startswith("9 x 9 pixels. ")


@pytest.mark.parametrize("kind", ["AVIF", "GIF"])
def test_the_page_takes_the_formats_that_extract_reads_and_tells_frames(predictor: Predictor, kind: str) -> None:
    data, blue = io.BytesIO(), Image.new("RGB", (40, 40), "blue")
    Image.new("RGB", (40, 40), "white").save(data, kind, save_all=True, append_images=[blue])
    (note,) = predict_bytes(predictor, data.getvalue())["notes"]
    assert note.startswith("2 frames, the first is read, which is of one colour. ")


@needs_chromium
def test_an_image_given_to_the_page_is_scored_as_by_predict(
    browser: Any, served: str, predictor: Predictor, photograph: Path
) -> None:
    (wanted,) = predictor.predict([photograph])
    name = "../../<img src=x onerror=window.hit=1>\u2028.jpg"
    with opened_page(browser, served) as page:
        file = {"name": name, "mimeType": "image/jpeg", "buffer": photograph.read_bytes()}
        page.set_input_files("#file", [file])
        page.wait_for_selector(".result")
        shown = page.inner_text(".result .predicted dd")
        assert shown == f"{wanted.score:.3f}"
        steps = [text.split()[-1] for text in page.locator(".result figcaption b").all_inner_texts()]
        assert steps == [f"{value:.3f}".replace("-", "\u2212") for value in wanted.step_scores]
        assert page.locator(".result canvas.map").count() == 3
        assert page.locator(".result img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        assert page.evaluate("window.hit") is None
        assert page.text_content(".result h3").endswith("<img src=x onerror=window.hit=1>\u2028.jpg")


DROP = """([event, data]) => {
  const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0)), transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "dropped.jpg"));
  const given = event === "drop" ? {dataTransfer: transfer} : {clipboardData: transfer};
  const made = event === "drop" ? new DragEvent("drop", {...given, bubbles: true, cancelable: true})
                                : new ClipboardEvent("paste", {...given, bubbles: true, cancelable: true});
  document.body.dispatchEvent(made);
}"""


@needs_chromium
@pytest.mark.parametrize("event", ["drop", "paste"])
def test_an_image_can_be_dropped_or_pasted_and_a_bad_one_says_why(
    browser: Any, served: str, photograph: Path, event: str
) -> None:
    with opened_page(browser, served, width=390, height=844) as page:
        page.evaluate(DROP, [event, base64.b64encode(photograph.read_bytes()).decode()])
        page.wait_for_selector(".result")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    with contextlib.closing(quiet_page(browser, served)) as page:
        page.evaluate(DROP, [event, base64.b64encode(b"no image").decode()])
        page.wait_for_selector(".refused")
        assert "unidentified" in page.inner_text("[role=alert]")
        assert page.locator(".result").count() == 0


def quiet_page(browser: Any, url: str) -> Any:
    """Open a page whose console is not looked at: Chromium tells of each answer that is an error there."""
    page = browser.new_page()
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    return page


def png_that_declares(width: int, height: int) -> bytes:
    """Return a small PNG whose header says it is large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "unidentified: the file is empty"),
        (b"only text, called photo.jpg", "unidentified: not one of JPEG, PNG"),
        (SVG, "unidentified: not one of JPEG, PNG"),
        (png_that_declares(60_000, 60_000), "too-large: "),
        (png_that_declares(5_001, 8_000), "too-large: "),
        (png_that_declares(100_000, 30), "degenerate: 100000 x 30 pixels"),
        (png_that_declares(300, 300), "truncated: "),
        (b"%PDF-1.7\n", "unidentified: "),
        (b"\x80\x04\x95cposix\nsystem\n", "unidentified: "),
    ],
    ids=["empty", "text", "svg", "bomb", "forty million", "long", "short", "pdf", "pickle"],
)
def test_what_is_no_image_is_refused_with_the_reason(served: str, data: bytes, message: str) -> None:
    status, found = ask(served, data)
    assert status == 422
    assert list(found) == ["error"]
    assert found["error"].startswith(message)


def test_a_truncated_photograph_is_refused(served: str, photograph: Path) -> None:
    data = photograph.read_bytes()
    status, found = ask(served, data[: len(data) // 2])
    assert (status, found["error"].partition(":")[0]) == (422, "truncated")


def test_an_upload_that_is_too_large_is_refused_whatever_it_declares(served: str) -> None:
    declared = {**BINARY, "Content-Length": str(MOST_BYTES + 1)}
    assert ask(served, b"", declared) == (413, {"error": "too large: at most 32 MB are taken"})
    host = served.removeprefix("http://").rstrip("/")
    with socket.create_connection((host.split(":")[0], int(host.split(":")[1])), timeout=30) as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/octet-stream\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        piece = b"f4240\r\n" + bytes(1_000_000) + b"\r\n"
        try:
            for _ in range(MOST_BYTES // 1_000_000 + 2):
                connection.sendall(piece)
        except OSError:
            pass  # it does not read on
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_ten_uploads_at_once_get_their_own_scores(served: str, predictor: Predictor, tiny_dataset: Path) -> None:
    paths = sorted((tiny_dataset / "images").glob("*.jpg"))[:10]
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda path: ask(served, path.read_bytes()), paths))
    wanted = [one.score for one in predictor.predict(paths)]
    assert [status for status, _ in found] == [200] * 10
    assert [answer["score"] for _, answer in found] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("headers", "status", "message"),
    [
        ({**BINARY, "Host": "evil.example"}, 421, "under its own address alone, not as 'evil.example'"),
        ({**BINARY, "Host": "127.0.0.1.evil.example:80"}, 421, "under its own address alone"),
        ({**BINARY, "Host": "[:::"}, 421, "under its own address alone"),
        ({**BINARY, "Origin": "http://evil.example"}, 403, "from another site"),
        ({**BINARY, "Origin": "null"}, 403, "from another site"),
        ({**BINARY, "Sec-Fetch-Site": "cross-site"}, 403, "from another site"),
        ({"Content-Type": "text/plain"}, 415, "application/octet-stream"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415, "application/octet-stream"),
    ],
)
def test_requests_of_others_are_refused(
    served: str, photograph: Path, headers: dict[str, str], status: int, message: str
) -> None:
    found = ask(served, photograph.read_bytes(), headers)
    assert found[0] == status
    assert message in found[1]["error"]


def test_the_page_is_refused_under_another_name_too(served: str) -> None:
    assert ask(served, b"", {"Host": "evil.example"}, method="GET", path="/")[0] == 421
    assert ask(served, b"", {}, method="GET", path="/../../etc/passwd") == (404, {"error": "Not Found"})
    assert ask(served, b"", {}, method="GET", path="/predict")[0] == 405


def test_what_is_no_http_is_answered_and_not_logged(served: str) -> None:
    host, port = served.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")  # and `served` checks what was printed


def test_the_page_may_not_be_framed_or_kept(served: str) -> None:
    connection = http.client.HTTPConnection(served.removeprefix("http://").rstrip("/"), timeout=30)
    connection.request("GET", "/")
    answer = connection.getresponse()
    answer.read()
    assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in answer.headers
    connection.close()


def test_names_that_are_let_in() -> None:
    def refused(host: str, bound: str) -> bool:
        return refusal("GET", {"host": host}, bound) is not None

    assert not any(refused(host, "127.0.0.1") for host in ("127.0.0.1:80", "localhost:80", "[::1]:80", "LOCALHOST"))
    assert all(refused(host, "127.0.0.1") for host in ("10.0.0.7:80", "", "me.example", "0x7f.1.example"))
    assert not any(refused(host, "0.0.0.0") for host in ("10.0.0.7:80", "localhost"))
    assert refused("me.example", "0.0.0.0")
    assert not refused("Me.example:80", "me.example")
    assert refusal("POST", {"host": "localhost:1", "origin": "http://localhost:2"}, "127.0.0.1") is not None
    ours = {"host": "localhost:1", "origin": "http://localhost:1", "content-type": "application/octet-stream"}
    assert refusal("POST", ours, "127.0.0.1") is None


def test_the_name_of_a_proxy_is_let_in_where_it_is_allowed() -> None:
    def status(allowed: tuple[str, ...], **headers: str) -> int:
        found = refusal("POST", {"content-type": "application/octet-stream", **headers}, "127.0.0.1", allowed)
        return found[0] if found else 200

    hub = host_names(["Hub.example."])
    assert hub == ("hub.example",)
    assert status(hub, host="hub.example", origin="https://hub.example") == 200  # a proxy that passes Host on
    assert status(hub, host="hub.example:8443", origin="https://hub.example:8443") == 200
    assert status(hub, host="hub.example", origin="https://HUB.example:8443") == 200  # one that leaves the port out
    assert status(hub, host="localhost:8000", origin="https://hub.example") == 200  # one that sends its own Host
    assert status((), host="localhost:8000", origin="https://hub.example") == 403
    assert status((), host="hub.example", origin="https://hub.example") == 421
    for host in ("evil.example", "hub.example.evil.example", "a.hub.example", "xhub.example", ""):
        assert status(hub, host=host) == 421
        assert status(hub, host="hub.example", origin=f"https://{host}") == 403
    assert status(hub, host="hub.example", origin="http://localhost:2") == 403
    assert status(hub, host="hub.example", origin="null") == 403
    assert status(hub, **{"host": "hub.example", "sec-fetch-site": "cross-site"}) == 403
    assert status(host_names(["[FD00:0::7]"]), host="[fd00::7]:80", origin="http://[fd00::7]:80") == 200
    assert status(host_names(["m\u00fcnchen.example"]), host="xn--mnchen-3ya.example") == 200


def test_a_refusal_names_the_option_for_proxies() -> None:
    binary = {"content-type": "application/octet-stream"}
    for headers in ({"host": "hub.example"}, {"host": "localhost", "origin": "https://hub.example"}):
        found = refusal("POST", {**binary, **headers}, "127.0.0.1")
        assert found is not None
        assert found[1].endswith("start explore with --allow-host NAME")


@pytest.mark.parametrize("text", ["https://hub.example", "hub.example:443", "hub.example/user", "*", "", ".", "a..b"])
def test_what_is_no_name_of_a_proxy_is_refused(run: Path, text: str) -> None:
    assert "give the name alone" in amnet("explore", "--head", run, "--allow-host", text, status=2).stderr


@pytest.mark.parametrize("path", ["/", "/proxy/8000/", "/user/me/proxy/absolute/8000/"])
def test_the_page_answers_below_the_path_of_a_proxy(path: str) -> None:
    page = explore_app("<p>page</p>", lambda data: {"score": len(data)}, host="127.0.0.1", allowed=("hub.example",))
    headers = {**BINARY, "Host": "hub.example", "Origin": "https://hub.example"}
    with in_thread(page) as url:
        assert ask(url, b"abc", headers, path=f"{path}predict") == (200, {"score": 3})
        assert ask(url, b"", {}, method="GET", path=f"{path}predict")[0] == 405
        assert ask(url, b"", {}, method="GET", path=f"{path}nothing")[0] == 404
        connection = http.client.HTTPConnection(url.removeprefix("http://").rstrip("/"), timeout=60)
        connection.request("GET", path, headers={"Host": "hub.example"})
        assert connection.getresponse().read() == b"<p>page</p>"
        connection.close()


@needs_chromium
def test_a_page_below_a_path_asks_for_nothing_outside_it(browser: Any, served: str, photograph: Path) -> None:
    with opened_page(browser, f"{served}proxy/8000/") as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.evaluate("history.replaceState(null, '', '/proxy/8000')")  # a proxy that adds no slash
        page.set_input_files("#file", str(photograph))
        page.wait_for_selector(".result")
        assert [url for url in asked if url.startswith("http")] == [f"{served}proxy/8000/predict"]


def test_more_uploads_than_can_wait_are_told_to_come_again() -> None:
    going, release, most = [], threading.Event(), 0

    def slow(data: bytes) -> dict[str, Any]:
        nonlocal most
        going.append(data)
        most = max(most, len(going))
        release.wait(30)
        going.remove(data)
        return {"score": 1}

    with in_thread(explore_app("", slow, host="127.0.0.1")) as url, ThreadPoolExecutor(MOST_WAITING + 3) as pool:
        asked = [pool.submit(ask, url, b"%d" % k) for k in range(MOST_WAITING + 3)]
        wait_until(lambda: sum(one.done() for one in asked) == 3)
        release.set()
        answers = [one.result() for one in asked]
    assert sorted(status for status, _ in answers) == [200] * MOST_WAITING + [503] * 3
    assert (503, {"error": "busy with other images; try again in a moment"}) in answers
    assert most == 1


def test_slow_uploads_give_up_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "UPLOAD_SECONDS", 1.0)
    with (
        contextlib.ExitStack() as stack,
        in_thread(explore_app("", lambda data: {"score": 1}, host="127.0.0.1")) as url,
    ):
        host, port = url.removeprefix("http://").rstrip("/").split(":")
        head = (
            f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/octet-stream\r\nContent-Length: 9\r\n"
        )
        slow = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=30)) for _ in range(MOST_WAITING)
        ]
        for connection in slow:
            connection.sendall(f"{head}\r\nabc".encode())  # and no more
        wait_until(lambda: ask(url, b"x")[0] == 503)
        assert [connection.recv(100)[:12] for connection in slow] == [b"HTTP/1.1 408"] * MOST_WAITING
        assert ask(url, b"x") == (200, {"score": 1})


def test_an_answer_of_a_failure_has_the_headers_of_every_other() -> None:
    def broken(data: bytes) -> dict[str, Any]:
        raise RuntimeError("secret")

    with in_thread(explore_app("", broken, host="127.0.0.1")) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://").rstrip("/"), timeout=30)
        connection.request("POST", "/predict", b"x", BINARY)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())) == (
            500,
            {"error": "this program failed; its own window says how"},
        )
        assert answer.headers["Cache-Control"] == "no-store"
        connection.close()


def wait_until(true: Callable[[], bool]) -> None:
    """Wait until something is true, half a minute at most."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextlib.contextmanager
def in_thread(app: Any) -> Iterator[str]:
    """Serve an application as long as the block, in a thread; yield its address."""
    with bound_socket("127.0.0.1", 0) as listening:
        listening.listen()
        made = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none"))
        thread = threading.Thread(target=made.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield url_of(listening)
        finally:
            made.should_exit = True
            thread.join()


@needs_chromium
def test_a_page_with_a_cache_is_its_report_too(browser: Any, served: str, photograph: Path) -> None:
    with opened_page(browser, served) as page:
        assert page.locator("#nav a").all_inner_texts() == ["Try an image", "Scores", "Figures", "Images", "Runs"]
        assert page.locator(".card").count() == 22
        assert page.input_value("#row") == "0"
        page.set_input_files("#file", str(photograph))
        page.wait_for_selector(".result")
        verdict = page.inner_text(".result .verdict")
        scores = {entry["row"]: entry["truth"] for entry in page.evaluate(GALLERY)["entries"]}
        below = sum(score < float(re.search(r"\d\.\d+", verdict)[0]) for score in scores.values())  # type: ignore[index]
        share = re.search(r"Above the ratings of\s+(\d+)% of (\d+) images", verdict)
        assert share is not None
        assert int(share[2]) == len(scores)
        assert abs(int(share[1]) - 100 * below / len(scores)) < 2


@pytest.mark.slow
def test_a_page_without_a_cache_is_of_the_head_alone_and_sigterm_ends_it(run: Path, tmp_path: Path) -> None:
    process = started("--head", run, "--json", folder=tmp_path)
    try:
        assert process.stdout is not None
        url = json.loads("".join(process.stdout.readline() for _ in range(3)))["url"]
        connection = http.client.HTTPConnection(url.removeprefix("http://").rstrip("/"), timeout=30)
        connection.request("GET", "/")
        page = connection.getresponse().read().decode()
        connection.close()
        assert "<title>paper: explore</title>" in page
        assert '"live":' in page
        assert '"scores":' not in page
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@needs_chromium
def test_the_page_of_several_runs_shows_their_mean_and_deviation(
    browser: Any, run: Path, photograph: Path, tmp_path: Path
) -> None:
    process = started("--run", run.parent, folder=tmp_path)
    try:
        assert process.stdout is not None
        with opened_page(browser, process.stdout.readline().strip()) as page:
            assert page.inner_text(".opening .lead").startswith("The mean over 2 runs, on 2 splits; features by ")
            assert "Scored by paper, the mean over its 2 runs, on this machine." in page.inner_text("#live .note")
            assert page.locator("#runs tbody tr").count() == 2
            page.set_input_files("#file", str(photograph))
            page.wait_for_selector(".result")
            (wanted,) = Predictor.load(run.parent).predict([photograph])
            assert page.inner_text(".result .predicted dd") == f"{wanted.score:.3f}"
            assert f"{wanted.deviation:.3f}" in page.inner_text(".result .verdict")
    finally:
        process.kill()
        process.communicate()


def test_addresses_that_cannot_be_bound_are_refused_before_anything_is_loaded(run: Path) -> None:
    with bound_socket("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        done = amnet("explore", "--head", run, "--port", port, status=2)
        assert f"cannot listen on 127.0.0.1 port {port}: Address already in use; choose another --port" in done.stderr
    assert "--port must be 0 to 65535, found 70000" in amnet("explore", "--head", run, "--port", 70000, status=2).stderr
    done = amnet("explore", "--head", run, "--host", "192.0.2.1", status=2)
    assert "cannot listen on 192.0.2.1 port 0" in done.stderr
    assert "choose another --host" in done.stderr
    assert "no run there" in amnet("explore", "--head", run / "nothing", status=2).stderr


def test_without_the_web_extra_explore_says_what_to_install(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidSettings, match=r"pip install 'amnet-featcache\[web\]'"):
        server.check_web()


def test_what_other_machines_can_reach_is_known_and_warned_of(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.7", "me.example"))
    served: list[Any] = []
    monkeypatch.setattr(server, "serve", lambda app, listening: served.append(app))
    done = amnet("explore", "--head", run, "--host", "0.0.0.0")
    assert "warning: other machines can reach 0.0.0.0, and whoever does can use this page" in done.stderr
    assert re.fullmatch(r"http://0\.0\.0\.0:\d+/\n", done.stdout)
    assert len(served) == 1


def test_a_very_large_photograph_is_predicted_without_a_file(predictor: Predictor) -> None:
    data = io.BytesIO()
    Image.fromarray(np.zeros((3000, 2000, 3), np.uint8)).save(data, "PNG")
    found = predict_bytes(predictor, data.getvalue())
    assert found["size"] == [2000, 3000]
    assert np.isfinite(found["score"])
    assert max(Image.open(io.BytesIO(base64.b64decode(found["picture"]))).size) == 640
