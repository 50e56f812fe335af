"""The page of `evalkit latent explore`: pick samples, do arithmetic and walk with the mouse, served to this machine.

The server is the standard library's; the page is explore.html.
"""

import json
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, cast, get_args
from urllib.parse import parse_qs, urlsplit

import numpy as np
from torch import Tensor

from evalkit.errors import EvalkitError, printable
from evalkit.gan.monitor import image_grid
from evalkit.latent.experiment import enlarge, png
from evalkit.latent.model import FrozenGAN
from evalkit.latent.samples import Concept, interpolate, neighbors, pixel_sum, signed_sum
from evalkit.latent.settings import ArithmeticSettings, ExploreSettings, Path
from evalkit.latent.vectors import parse_numbers

HOST = "127.0.0.1"
_PATHS = get_args(Path)
_POLICY = (  # the page loads nothing from elsewhere, and stands in no frame of another page
    "default-src 'none'; img-src 'self' data:; connect-src 'self'; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_MOST_FIELDS = 16  # parameters in a query; the page gives at most four
_MOST_TERMS = 8  # concepts in a sum; the page adds up three
_MOST_NUMBERS = 100  # samples in a concept; the page takes 99
_REQUESTS = 32  # answered at the same time; a browser opens six connections
_SECONDS = 10  # that a connection may take to send its request, or to read the answer
Query = dict[str, list[str]]


def explore_gan(gan: FrozenGAN, settings: ExploreSettings = ExploreSettings()) -> "Server":
    """A server for the page with random samples, bound to 127.0.0.1 only; the caller runs and closes it.

    Raises:
        EvalkitError: the port is taken.
    """
    z = gan.sample_z(settings.count, seed=settings.seed)
    return serve(Explorer(gan, z, seed=settings.seed), port=settings.port)


class Explorer:
    """What the page shows, as functions of its queries; one image at a time.

    Args:
        z: the samples to pick from, (n, z_dim); their numbers are their rows.
        seed: random seed of the neighbors of a sum.
    """

    def __init__(self, gan: FrozenGAN, z: Tensor, *, seed: int = 0):
        self.gan, self.z, self._seed, self._lock = gan, z, seed, threading.Lock()
        self.samples = gan.images(z)

    def about(self, query: Query) -> dict[str, Any]:
        """The name of the GAN and the number of samples."""
        return {"gan": self.gan.name, "count": len(self.z)}

    def sample(self, query: Query) -> bytes:
        """The sample `number` as PNG."""
        (number,) = self._numbers(query, "number", exactly=1)
        return png(enlarge(self.samples[number]))

    def walk(self, query: Query) -> bytes:
        """The image at `t` between the samples `from` and `to` along `path`, as PNG."""
        return png(enlarge(self._images(self._walk_z(query)[None])[0], side=256))

    def arithmetic(self, query: Query) -> bytes:
        """The sum of z of the samples listed in each `plus` and `minus`, with its neighbors, as PNG."""
        nine = neighbors(signed_sum(self._concepts(query)), noise=ArithmeticSettings.noise, seed=self._seed)
        return png(enlarge(image_grid(self._images(nine), 3), side=256))

    def pixels(self, query: Query) -> bytes:
        """The same sum of pixels, as PNG."""
        concepts = [(self.samples[self._listed(text)], sign) for text, sign in _terms(query)]
        return png(enlarge(pixel_sum([c for c, _ in concepts], [sign for _, sign in concepts]), side=256))

    def vector(self, query: Query) -> list[float]:
        """z of the walk's image or of the sum, for the other commands."""
        return (self._walk_z(query) if "t" in query else signed_sum(self._concepts(query))).tolist()

    def _walk_z(self, query: Query) -> Tensor:
        first, last = (self._numbers(query, key, exactly=1)[0] for key in ("from", "to"))
        path, text = query.get("path", ["straight"])[0], query.get("t", [""])[0]
        try:
            t = float(text)
        except ValueError:
            raise EvalkitError(f"t = {text[:40]!r}: expected a number from 0 to 1") from None
        if not 0 <= t <= 1 or path not in _PATHS:
            raise EvalkitError(f"t = {t:g}, path {path[:40]!r}: expected 0 to 1, {' or '.join(_PATHS)}")
        return interpolate(self.z[first], self.z[last], t, path=cast(Path, path))

    def _concepts(self, query: Query) -> list[Concept]:
        return [Concept(self.z[self._listed(text)], sign) for text, sign in _terms(query)]

    def _numbers(self, query: Query, key: str, *, exactly: int) -> list[int]:
        numbers = self._listed(query.get(key, [""])[0])
        if len(numbers) != exactly:
            raise EvalkitError(f"{key}: {len(numbers)} numbers, expected {exactly}")
        return numbers

    def _listed(self, text: str) -> list[int]:
        return parse_numbers(text, below=len(self.z), most=_MOST_NUMBERS)

    def _images(self, z: Tensor) -> np.ndarray:
        with self._lock:
            return self.gan.images(z)


def _terms(query: Query) -> list[tuple[str, int]]:
    terms = [(text, 1) for text in query.get("plus", [])] + [(text, -1) for text in query.get("minus", [])]
    if not terms:
        raise EvalkitError("nothing to add: expected plus or minus with numbers of samples")
    if len(terms) > _MOST_TERMS:
        raise EvalkitError(f"{len(terms)} concepts, expected at most {_MOST_TERMS}")
    return terms


class Server(ThreadingHTTPServer):
    """Serves the page and its answers to this machine, a bounded number at a time; stops with `shutdown`."""

    def __init__(self, explorer: Explorer, port: int):
        self.page = (files("evalkit.latent") / "explore.html").read_bytes()
        self.answers: dict[str, Callable[[Query], Any]] = {
            "/about.json": explorer.about,
            "/sample.png": explorer.sample,
            "/walk.png": explorer.walk,
            "/arithmetic.png": explorer.arithmetic,
            "/pixels.png": explorer.pixels,
            "/z.json": explorer.vector,
        }
        self._free = threading.BoundedSemaphore(_REQUESTS)
        super().__init__((HOST, port), Handler)
        names = [f"{name}:{self.server_port}" for name in (HOST, "localhost")]
        self.hosts = {*names, *((HOST, "localhost") if self.server_port == 80 else ())}

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers in a thread of its own, or closes the connection where too many are being answered."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers one request, then makes room for another."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing where the browser went away; an error of ours keeps its traceback."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answers one request, if it comes from the page itself or from the address bar."""

    server: Server
    timeout = _SECONDS

    def do_GET(self) -> None:
        if not self._is_own():
            text = b"only for this page on this machine; type its address into the browser's address bar"
            self._send(HTTPStatus.FORBIDDEN, "text/plain", text)
            return
        try:
            address = urlsplit(self.path)
            query = parse_qs(address.query, max_num_fields=_MOST_FIELDS)
        except ValueError:
            self._send(HTTPStatus.BAD_REQUEST, "text/plain", b"not an address of this page, or too many parameters")
            return
        if address.path == "/":
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page)
        elif address.path not in self.server.answers:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"no such page")
        else:
            self._answer(self.server.answers[address.path], query)

    def _is_own(self) -> bool:
        """Whether the request is to this machine by its own name, and no other site's page made the browser send it."""
        hosts, origins = self.headers.get_all("Host", []), self.headers.get_all("Origin", [])
        if len(hosts) != 1 or hosts[0] not in self.server.hosts:  # another site's name may resolve to this machine
            return False
        return self.headers.get("Sec-Fetch-Site", "none") in ("same-origin", "none") and (
            all(origin == f"http://{hosts[0]}" for origin in origins)
        )

    def _answer(self, answer: Callable[[Query], Any], query: Query) -> None:
        try:
            content = answer(query)
        except EvalkitError as error:
            self._send(HTTPStatus.BAD_REQUEST, "text/plain; charset=utf-8", printable(str(error)).encode())
            return
        if isinstance(content, bytes):
            self._send(HTTPStatus.OK, "image/png", content)
        else:
            self._send(HTTPStatus.OK, "application/json", json.dumps(content).encode())

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        with suppress(OSError):  # the browser no longer wants it
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Prints nothing: one line per request would hide the address."""


def serve(explorer: Explorer, *, port: int = 0) -> Server:
    """A server for the page, bound to 127.0.0.1 only; the caller runs and closes it.

    Raises:
        EvalkitError: the port is taken.
    """
    try:
        return Server(explorer, port)
    except OSError as error:
        raise EvalkitError(f"port {port} of {HOST}: {error.strerror}; give another --port, or 0 for any") from None
