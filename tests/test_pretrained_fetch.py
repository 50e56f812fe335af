"""Downloads of released weights from a local server that interrupts, serves wrong bytes, or knows no ranges."""

import contextlib
import dataclasses
import gc
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from released import write_release

from evalkit.cli import main
from evalkit.encoders import load_encoder
from evalkit.errors import EvalkitError
from evalkit.pretrained import download as module
from evalkit.pretrained.dcgan_release import RELEASES
from evalkit.pretrained.import_weights import import_weights
from evalkit.pretrained.registry import fetch_pretrained, find_pretrained
from evalkit.workspace import Workspace


class Server(ThreadingHTTPServer):
    """Serves the files of a folder by name. The test chooses what it does wrong."""

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.ranges, self.cut, self.status, self.changed = True, None, {}, {}
        self.requests: list[tuple[str, str]] = []
        self.sent = 0
        self.url = f"http://127.0.0.1:{self.server_port}/copy"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, name, wanted = self.server, Path(self.path).name, self.headers.get("Range", "")
        server.requests.append((name, wanted))
        content = server.changed.get(name, (server.folder / name).read_bytes())
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        status = server.status.get(name) or (206 if first else 200)
        self.send_response(416 if first >= len(content) else status)
        self.send_header("Content-Length", str(len(content) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        body = content[first:][: server.cut]
        self.wfile.write(body)
        server.sent += len(body)
        self.close_connection = True


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(folder, release): a synthetic SVHN release, written once."""
    folder = tmp_path_factory.mktemp("release") / "svhn"
    return folder, write_release(folder, RELEASES["dcgan-svhn"])


@pytest.fixture
def server(files, monkeypatch):
    monkeypatch.setitem(RELEASES, "dcgan-svhn", files[1])
    monkeypatch.setattr(module, "_PAUSES", (0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(files[0]) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "home")


def weights(path):
    return [(path / f"{network}.safetensors").read_bytes() for network in ("discriminator", "generator")]


def total(release):
    return sum(file.bytes for file in release.files)


def test_fetched_weights_are_those_imported(server, workspace, files, tmp_path):
    result = CliRunner().invoke(
        main, ["--home", str(workspace.home), "pretrained", "fetch", "dcgan-svhn", "--mirror", server.url]
    )
    assert result.stdout == f"{workspace.home / 'pretrained/dcgan-svhn'}\n", result.output
    fetched = workspace.home / "pretrained/dcgan-svhn"
    assert weights(fetched) == weights(import_weights([files[0]], home=tmp_path / "other"))
    assert "- licence: MIT\n" in (fetched / "card.md").read_text()
    assert [name for name, _ in server.requests] == [file.name for file in files[1].files]  # no pickle among them
    assert not list(workspace.downloads.glob("**/*.npy"))
    assert fetch_pretrained("dcgan-svhn", home=workspace) == fetched
    assert len(server.requests) == 18  # not again


def test_interrupted_downloads_resume(server, workspace, files):
    server.cut = 1_000_000
    path = fetch_pretrained("dcgan-svhn", home=workspace, mirror=server.url)
    assert ("200_gen_params.jl_04.npy", "bytes=1000000-") in server.requests
    assert server.sent == total(files[1])  # not a byte twice
    assert np.isfinite(np.frombuffer(weights(path)[0][-400:], np.float32)).all()


def test_a_server_without_ranges_sends_the_whole_file_again(server, workspace, files):
    folder = workspace.downloads / "pretrained/dcgan-svhn"
    folder.mkdir(parents=True)
    (folder / "200_gen_params.jl_04.npy.part").write_bytes((files[0] / "200_gen_params.jl_04.npy").read_bytes()[:500])
    server.ranges = False
    fetch_pretrained("dcgan-svhn", home=workspace, mirror=server.url)
    assert ("200_gen_params.jl_04.npy", "bytes=500-") in server.requests
    assert server.sent == total(files[1])


def test_a_server_that_interrupts_and_knows_no_ranges_is_given_up_until_the_next_fetch(server, workspace, files):
    server.ranges, server.cut = False, 900_000
    with pytest.raises(EvalkitError, match="_05.npy: connection ended after 900,000 of .*; the same command resumes"):
        fetch_pretrained("dcgan-svhn", home=workspace, mirror=server.url)
    server.ranges, server.cut, server.sent = True, None, 0
    fetch_pretrained("dcgan-svhn", home=workspace, mirror=server.url)
    done = sum(file.bytes for file in files[1].files[:4]) + 900_000
    assert server.sent == total(files[1]) - done


def test_wrong_bytes_are_refused_and_discarded(server, workspace, files):
    name = "200_discrim_params.jl_02.npy"
    whole = (files[0] / name).read_bytes()
    server.changed[name] = whole[:-1] + b"\x00"
    with pytest.raises(EvalkitError, match=f"{name}: .* bytes with git blob SHA-1 .{{40}}, the index.*discarded"):
        fetch_pretrained("dcgan-svhn", home=workspace, mirror=server.url)
    server.changed[name] = b"<html>log in first</html>"
    with pytest.raises(EvalkitError, match=f"{name}: a file of 25 bytes, the index says .*; not the release's"):
        fetch_pretrained("dcgan-svhn", home=workspace, mirror=server.url)
    assert not (workspace.home / "pretrained/dcgan-svhn").exists()
    assert [path.name for path in workspace.downloads.glob("pretrained/*/*")] == ["200_discrim_params.jl_01.npy"]


def test_a_wrong_earlier_part_is_fetched_again(server, workspace, files):
    folder = workspace.downloads / "pretrained/dcgan-svhn"
    folder.mkdir(parents=True)
    (folder / "200_gen_params.jl_04.npy.part").write_bytes(bytes(500))
    (folder / "200_gen_params.jl_05.npy.part").write_bytes(bytes(5000))  # longer than the file
    path = fetch_pretrained("dcgan-svhn", home=workspace, mirror=server.url)
    assert [r for name, r in server.requests if "gen_params.jl_04" in name] == ["bytes=500-", ""]
    assert [r for name, r in server.requests if "gen_params.jl_05" in name] == [""]
    assert weights(path)


@pytest.mark.parametrize(("status", "message"), [(404, "HTTP 404; is the address right"), (503, "HTTP 503 after 0 of")])
def test_http_errors_are_one_line(server, workspace, status, message):
    server.status["200_discrim_params.jl_01.npy"] = status
    result = CliRunner().invoke(
        main, ["--home", str(workspace.home), "pretrained", "fetch", "dcgan-svhn", "--mirror", server.url]
    )
    assert result.exit_code == 1
    assert message in result.stderr.splitlines()[-1]
    assert len(server.requests) == (1 if status == 404 else 3)  # 503 may be temporary: retried


def test_no_server_and_a_bad_address_are_refused(server, workspace):
    server.server_close()
    with pytest.raises(EvalkitError, match="no connection .* after 0 of .* bytes; the same command resumes"):
        fetch_pretrained("dcgan-svhn", home=workspace, mirror=server.url)
    with pytest.raises(EvalkitError, match="file:///etc/.*: expected an address that starts with https:// or http://"):
        fetch_pretrained("dcgan-svhn", home=workspace, mirror="file:///etc")


def test_load_encoder_fetches_a_release_into_the_workspace_or_a_temporary_one(server, workspace, monkeypatch):
    with pytest.raises(EvalkitError, match="nothing there; run `evalkit pretrained fetch dcgan-svhn`"):
        find_pretrained("dcgan-svhn", workspace, download=False)
    there = RELEASES["dcgan-svhn"].indexed
    indexed = tuple(dataclasses.replace(file, url=f"{server.url}/{file.name}") for file in there)
    monkeypatch.setitem(RELEASES, "dcgan-svhn", dataclasses.replace(RELEASES["dcgan-svhn"], indexed=indexed))
    with pytest.raises(EvalkitError, match="nothing there; run `evalkit pretrained fetch dcgan-svhn`"):
        load_encoder("pretrained:dcgan-svhn", home=workspace, download=False)
    assert load_encoder("pretrained:dcgan-svhn", home=workspace).name == "pretrained:dcgan-svhn"
    assert len(server.requests) == 18
    load_encoder("pretrained:dcgan-svhn", home=workspace)
    assert len(server.requests) == 18  # not again
    encoder = load_encoder("pretrained:dcgan-svhn")
    folder = Path(encoder.weights)
    assert len(server.requests) == 36
    assert folder.is_file()
    del encoder
    gc.collect()
    assert not folder.parent.parent.parent.exists()


# -- hostile answers

OK, PARTIAL, MOVED = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 206 Partial\r\n", b"HTTP/1.1 302 Found\r\n"
ODD_ANSWERS = {
    "206 without Content-Range": (PARTIAL + b"Content-Length: 9\r\n\r\n123456789", "Content-Range ''"),
    "206 of another place": (PARTIAL + b"Content-Range: bytes 7-9/10\r\n\r\n123", "Content-Range 'bytes 7-9/10'"),
    "206 with digits": (PARTIAL + b"Content-Range: bytes 0-9/" + b"9" * 5000 + b"\r\n\r\n1", "expected one from byte"),
    "a broken address": (MOVED + b"Location: http://[::1\r\n\r\n", "redirects to what cannot .ValueError"),
    "an overlong host": (MOVED + b"Location: http://" + b"h" * 300 + b"/\r\n\r\n", "redirects to what cannot"),
    "another port": (MOVED + b"Location: http://a:99999999/\r\n\r\n", "after 0 of|redirects to what cannot"),
    "a local file": (MOVED + b"Location: file:///etc/passwd\r\n\r\n", "HTTP 302|redirects to"),
    "another protocol": (MOVED + b"Location: ftp://127.0.0.1/x\r\n\r\n", "redirects to 'ftp://127.0.0.1/x'"),
    "a length of 5,000 digits": (OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n1", "of 5,000 digits"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", "connection lost"),
    "a broken chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "connection lost"),
    "a redirection to itself": (MOVED + b"Location: /copy\r\n\r\n", "HTTP 302"),
}  # fmt: skip


@pytest.fixture
def odd_server(monkeypatch):
    """Starts a server that answers every request with the same bytes; returns its address."""
    monkeypatch.setattr(module, "_PAUSES", (0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1,a")
    running = []

    def start(answer, pause=0.0):
        class Odd(socketserver.StreamRequestHandler):
            def handle(self):
                self.request.recv(65536)
                with contextlib.suppress(OSError):
                    for part in [answer] if not pause else [answer[i : i + 1] for i in range(len(answer))]:
                        self.request.sendall(part)
                        time.sleep(pause)

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Odd)
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/copy"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # of urllib
@pytest.mark.parametrize("kind", ODD_ANSWERS)
def test_odd_answers_are_one_line(kind, odd_server, workspace):
    answer, match = ODD_ANSWERS[kind]
    with pytest.raises(EvalkitError, match=match) as refusal:
        fetch_pretrained("dcgan-svhn", home=workspace, mirror=odd_server(answer))
    assert "\n" not in str(refusal.value)


def test_the_time_of_a_download_is_bounded(odd_server, workspace, monkeypatch):
    monkeypatch.setattr(module, "_GRACE", 0.3)
    monkeypatch.setattr(module, "_SLOWEST", 1e9)
    address = odd_server(OK + b"\r\n" + bytes(400), pause=0.02)
    with pytest.raises(EvalkitError, match="the server is too slow after .* of .* bytes; the same command resumes"):
        fetch_pretrained("dcgan-svhn", home=workspace, mirror=address)


def test_a_link_in_place_of_the_part_is_not_written_through(server, workspace, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    folder = workspace.downloads / "pretrained/dcgan-svhn"
    folder.mkdir(parents=True)
    (folder / "200_discrim_params.jl_01.npy.part").symlink_to(tmp_path / "mine.txt")
    with pytest.raises(EvalkitError, match="in the way of a download, and not a file that evalkit wrote"):
        fetch_pretrained("dcgan-svhn", home=workspace, mirror=server.url)
    assert (tmp_path / "mine.txt").read_text() == "mine"
