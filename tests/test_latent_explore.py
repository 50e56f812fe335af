"""The explore page: its answers (value), what it refuses (failure), and the page in headless Chromium (end to end)."""

import contextlib
import io
import json
import re
import shutil
import socket
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image

from evalkit.errors import EvalkitError
from evalkit.gan.networks import build_networks
from evalkit.gan.recipes import RECIPES, override
from evalkit.latent import explore
from evalkit.latent.explore import Explorer, serve
from evalkit.latent.model import freeze_gan

TINY = override(RECIPES["digits"], {"base_channels": 4, "z_dim": 8, "size": 16})
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@pytest.fixture(scope="module")
def explorer():
    generator, discriminator = build_networks(TINY, seed=0)
    with torch.no_grad():
        for parameter in generator.deconvs.parameters():
            parameter.mul_(5)
    gan = freeze_gan("tiny@0", generator, discriminator)
    return Explorer(gan, gan.sample_z(12, seed=0))


@pytest.fixture(scope="module")
def page(explorer):
    """The address of a running server."""
    with serve(explorer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def get(address, **headers):
    try:
        with _open(urllib.request.Request(address, headers=headers), timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def image(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def test_value_of_the_pages_answers(page, explorer):
    z, gan = explorer.z, explorer.gan
    assert json.loads(get(page + "/about.json")[1]) == {"gan": "tiny@0", "count": 12}
    sample = image(get(page + "/sample.png?number=5")[1])
    assert np.array_equal(sample[::4, ::4], gan.images(z[5:6])[0])  # enlarged four times
    for t, number in ((0, 3), (1, 8)):
        for path in ("straight", "spherical"):
            end = image(get(f"{page}/walk.png?from=3&to=8&t={t}&path={path}")[1])
            np.testing.assert_allclose(end[::16, ::16].astype(int), gan.images(z[number][None])[0], atol=1)
    total = z[[0, 1, 2]].mean(0) - z[[3, 4]].mean(0) + z[5]
    query = "plus=0-2&minus=3,4&plus=5"
    torch.testing.assert_close(torch.tensor(json.loads(get(f"{page}/z.json?{query}")[1])), total)
    nine = image(get(f"{page}/arithmetic.png?{query}")[1])
    times = nine.shape[0] // 48
    middle = nine[::times, ::times][16:32, 16:32]
    np.testing.assert_allclose(middle.astype(int), gan.images(total[None])[0], atol=1)  # float32, then rounded
    assert image(get(f"{page}/pixels.png?{query}")[1]).shape == (256, 256, 3)


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        ("/sample.png?number=12", 400, "there are numbers 0 to 11, not 12"),
        ("/sample.png?number=x", 400, "expected numbers, like"),
        ("/sample.png", 400, "expected numbers"),
        ("/walk.png?from=1&to=2&t=2", 400, "expected 0 to 1"),
        ("/walk.png?from=1&to=2&t=nan", 400, "expected 0 to 1"),
        ("/walk.png?from=1&to=2", 400, "expected a number from 0 to 1"),
        ("/walk.png?from=1&to=2&t=0&path=round", 400, "straight or spherical"),
        ("/walk.png?from=1,2&to=2&t=0", 400, "from: 2 numbers, expected 1"),
        ("/arithmetic.png", 400, "nothing to add"),
        ("/../setup.cfg", 404, "no such page"),
        # as cheap to refuse as to ask for
        ("/sample.png?number=0-9999999999", 400, "there are numbers 0 to 11, not 9999999999"),
        ("/sample.png?number=9999999990-9999999999", 400, "there are numbers 0 to 11"),
        ("/walk.png?from=0-99999999999999999&to=1&t=0", 400, "there are numbers 0 to 11"),
        ("/z.json?plus=1&minus=0-9999999999", 400, "there are numbers 0 to 11"),
        ("/pixels.png?plus=" + ",".join(["0-11"] * 9), 400, "108 numbers, expected at most 100"),
        ("/arithmetic.png?plus=" + ",".join(["0-11"] * 9000), 400, "108,000 numbers, expected at most 100"),
        ("/arithmetic.png?" + "&".join(["plus=1"] * 9), 400, "9 concepts, expected at most 8"),
        ("/arithmetic.png?" + "&".join(["plus=1"] * 9000), 400, "too many parameters"),
        ("/sample.png?number=" + "9" * 5000, 400, "a number of more than 18 digits"),
        ("/sample.png?number=%D9%A3", 400, "expected numbers, like"),  # a digit, but not one of ours
        ("/walk.png?from=1&to=2&t=" + "1" * 5000, 400, "expected 0 to 1"),
        ("/walk.png?from=1&to=2&t=x%0D%0Ay", 400, "expected a number from 0 to 1"),
        ("/sample.png?number=1%0A%1B[2J", 400, r"1\n\x1b[2J: expected numbers"),
    ],
)
def test_what_the_page_refuses(page, address, status, said):
    found, text = get(page + address)
    assert found == status
    assert said in text.decode()


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("Host", "evil.example:PORT", 403),  # a foreign name that resolves to this machine
        ("Host", "127.0.0.1", 403),
        ("Host", "127.0.0.1:PORT.evil.example", 403),
        ("Host", "localhost:PORT", 200),
        ("Origin", "http://evil.example", 403),
        ("Origin", "null", 403),  # of a sandboxed frame
        ("Origin", "http://127.0.0.1:1", 403),
        ("Origin", "https://127.0.0.1:PORT", 403),
        ("Origin", "http://127.0.0.1:PORT", 200),
        ("Sec-Fetch-Site", "cross-site", 403),
        ("Sec-Fetch-Site", "same-site", 403),  # another port of this machine
        ("Sec-Fetch-Site", "anything", 403),
        ("Sec-Fetch-Site", "same-origin", 200),
        ("Sec-Fetch-Site", "none", 200),  # typed into the address bar
    ],
)
@pytest.mark.parametrize("path", ["/", "/about.json", "/sample.png?number=1"])
def test_server_answers_its_own_page_only(page, header, value, status, path):
    port = page.rsplit(":", 1)[1]
    assert get(page + path, **{header: value.replace("PORT", port)})[0] == status


def test_server_listens_on_this_machine_only(page, explorer):
    port = int(page.rsplit(":", 1)[1])
    with pytest.raises(EvalkitError, match=f"port {port} of 127.0.0.1: .*; give another --port"):
        serve(explorer, port=port)
    with serve(explorer) as other:
        assert other.server_address[0] == "127.0.0.1"


def raw(page, request):
    """What the server answers to these bytes."""
    with socket.create_connection(("127.0.0.1", int(page.rsplit(":", 1)[1])), timeout=20) as connection:
        connection.sendall(request)
        with contextlib.suppress(ConnectionResetError):
            return connection.makefile("rb").read()
    return b""


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", b"403"),  # names no host
        (b"GET / HTTP/1.0\r\nHost: 127.0.0.1:PORT\r\nHost: evil.example\r\n\r\n", b"403"),
        (b"GET http://[ HTTP/1.0\r\nHost: 127.0.0.1:PORT\r\n\r\n", b"400"),
        (b"POST / HTTP/1.0\r\nHost: 127.0.0.1:PORT\r\n\r\n", b"501"),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.0\r\n\r\n", b"414"),
        (b"\xff\x00 \xfe / \r\n\r\n", b"400"),
    ],
)
def test_malformed_requests_get_an_answer_and_no_traceback(page, capfd, request_, status):
    answer = raw(page, request_.replace(b"PORT", page.rsplit(":", 1)[1].encode()))
    assert status in answer or (status == b"414" and answer == b"")
    assert "Traceback" not in capfd.readouterr().err


def test_a_browser_that_goes_away_leaves_no_traceback(page, capfd):
    with socket.create_connection(("127.0.0.1", int(page.rsplit(":", 1)[1]))) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes with a reset
        connection.sendall(b"GET / HTTP")
    for _ in range(5):  # until the other thread is through, too
        assert get(page)[0] == 200
        time.sleep(0.1)
    errors = capfd.readouterr().err
    assert errors == ""


def test_connections_beyond_the_limit_are_closed_and_others_answered_later(explorer, monkeypatch):
    monkeypatch.setattr(explore, "_REQUESTS", 3)
    monkeypatch.setattr(explore.Handler, "timeout", 1)
    with serve(explorer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        before = threading.active_count()
        idle = [socket.create_connection(server.server_address) for _ in range(3)]  # send nothing
        try:
            with pytest.raises((ConnectionError, urllib.error.URLError)):
                get(address + "/about.json")
            assert threading.active_count() <= before + 3
            deadline = time.monotonic() + 20  # after a second the server gives up on the idle ones
            while time.monotonic() < deadline:
                with contextlib.suppress(ConnectionError, urllib.error.URLError):
                    assert get(address + "/about.json")[0] == 200
                    break
                time.sleep(0.1)
            else:
                raise AssertionError("never answered again")
        finally:
            for each in idle:
                each.close()
            server.shutdown()


def test_page_refers_to_no_other_host(page):
    text = get(page)[1].decode()
    assert "evalkit latent explore" in text
    assert re.findall(r"https?:|//[a-z]|@import|url\(", text) == []


# -- in a browser, driven through chromedriver's HTTP interface (WebDriver)


class Browser:
    """As much of WebDriver as the test needs."""

    def __init__(self, port, folder):
        self._base = f"http://127.0.0.1:{port}/session"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync", f"--user-data-dir={folder}"]  # fmt: skip
        options = {"args": flags, "binary": shutil.which("chromium")}
        found = self._send("", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
        self._base += f"/{found['sessionId']}"

    def _send(self, path, body):
        request = urllib.request.Request(
            self._base + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with _open(request, timeout=60) as answer:
            return json.loads(answer.read())["value"]

    def open(self, address):
        self._send("/url", {"url": address})

    def click(self, css):
        (element,) = self._send("/element", {"using": "css selector", "value": css}).values()
        self._send(f"/element/{element}/click", {})

    def move_mouse(self, css, x):
        """To `x` pixels right of the element's middle."""
        element = self._send("/element", {"using": "css selector", "value": css})
        move = {"type": "pointerMove", "duration": 0, "origin": element, "x": x, "y": 0}
        self._send("/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": [move]}]})

    def run(self, script):
        return self._send("/execute/sync", {"script": "return " + script, "args": []})

    def wait(self, script):
        for _ in range(200):
            if found := self.run(script):
                return found
            time.sleep(0.05)
        raise AssertionError(f"never true in the page: {script}")

    def close(self):
        request = urllib.request.Request(self._base, method="DELETE")
        _open(request, timeout=60).close()


@pytest.fixture
def browser(tmp_path):
    driver = shutil.which("chromedriver")
    if not (driver and shutil.which("chromium")):
        pytest.skip("no chromium and chromedriver on this machine: apt-get install chromium chromium-driver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        session = Browser(port, tmp_path / "profile")
        yield session
        session.close()
    finally:
        process.terminate()
        process.wait()


def test_page_picks_adds_and_walks_by_mouse(browser, page, explorer):
    browser.open(page)
    browser.wait("document.querySelectorAll('#samples img').length == 12")
    for slot, numbers in (("a", (0, 1)), ("b", (3, 4)), ("c", (5,))):
        browser.click(f"#slot-{slot}")
        for number in numbers:
            browser.click(f"#sample-{number}")
    browser.click("#slot-b")
    browser.click("#sample-4")  # out again
    query = "plus=0,1&minus=3&plus=5"
    browser.wait(f"document.getElementById('sum').src == '{page}/arithmetic.png?{query}'")
    browser.wait("document.getElementById('sum').naturalWidth == 240 && document.getElementById('pixels').naturalWidth")
    assert browser.run("document.getElementById('sum-z').href") == f"{page}/z.json?{query}"
    browser.click("#slot-walk")
    browser.click("#sample-2")
    browser.click("#sample-7")
    browser.wait("document.getElementById('pad').naturalWidth == 256")
    browser.move_mouse("#pad", 64)  # three quarters of the way
    t = float(browser.wait("document.getElementById('pad').src.match(/t=(0.7[0-9]*)/)?.[1]"))
    assert t == pytest.approx(0.75, abs=0.01)  # the slider's step
    browser.click("#spherical")
    browser.wait("document.getElementById('pad').src.endsWith('path=spherical')")
    assert browser.run("document.getElementById('error').textContent") == ""
    # all that was loaded came from this server
    loaded = browser.run("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert len(loaded) > 15
    assert all(name.startswith((page, "data:")) for name in loaded)
