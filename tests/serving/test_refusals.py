"""Requests that a running server refuses, and its state afterwards."""

import socket
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from automl_cxr.errors import UsageError
from automl_cxr.serving.server import TOKEN_VARIABLE, check_token, read_token
from tests.data.picture_files import png_bytes
from tests.serving.conftest import MAX_BYTES, png, running

TOKEN = "0123456789abcdef"


def post(client, content, **options):
    return client.post("/predict", files={"file": content}, **options)


def bomb() -> bytes:
    """Return a PNG of 400 megapixels whose pixels are compressed to few bytes."""
    content = png_bytes(np.zeros((8, 8, 1), np.uint8), 0, 8)
    header = content[16:24]
    large = (20_000).to_bytes(4, "big") * 2 + content[24:29]
    return content.replace(header + content[24:29], large).replace(
        content[29:33], zlib.crc32(b"IHDR" + large).to_bytes(4, "big")
    )


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (b"", 415, "an empty file"),
        (b"hello", 415, "unknown format"),
        (b"GIF89a" + bytes(50), 415, "a GIF file"),
        (b"\x93NUMPY" + bytes(50), 415, "a NumPy file"),
        (png()[:200], 422, "truncated"),
        (bomb(), 422, "too large"),
        (png((300, 300)), 422, "too large (300 x 300 pixels"),
        (png((4, 4)), 422, "too small"),
        (bytes(128) + b"DICM" + bytes(50), 422, ""),
    ],
    ids=["empty", "text", "gif", "array", "truncated", "bomb", "large", "small", "damaged DICOM"],
)
def test_files_that_are_no_radiographs(client, content, status, reason):
    answer = post(client, content)
    assert answer.status_code == status
    assert reason in answer.json()["detail"]
    assert "Traceback" not in answer.text
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Modality": "CT"}, "CT images"),
        ({"Modality": "OT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary captures"),
        ({"shape": (3, 60, 50)}, "3 frames"),
    ],
)
def test_dicom_objects_that_are_not_one_radiograph(client, radiograph, tags, reason):
    answer = post(client, radiograph(**tags).read_bytes())
    assert (answer.status_code, reason in answer.json()["detail"]) == (422, True)


def test_a_radiograph_of_another_part_is_predicted_with_a_warning(client, radiograph):
    file = radiograph(BodyPartExamined="HAND", ViewPosition="LL")
    warnings = post(client, file.read_bytes()).json()["warnings"]
    assert ["HAND" in warnings[0], "LL" in warnings[1]] == [True, True]


def test_a_wrong_parameter_is_explained(client):
    answer = post(client, png(), params={"heatmap": True, "explain": "normall"})
    assert (answer.status_code, "Did you mean 'normal'?" in answer.json()["detail"]) == (422, True)
    assert client.post("/predict").status_code == 422
    assert post(client, png(), params={"format": "xml"}).status_code == 422


def test_a_large_upload_is_refused_before_it_is_received(client):
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")


def test_a_large_upload_of_unknown_length_is_refused_while_it_is_received(client):
    def chunks():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        for _ in range(40):
            yield bytes(10_000)
        yield b"\r\n--x--\r\n"

    answer = client.post("/predict", content=chunks(), headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert (answer.status_code, f"{MAX_BYTES:,}" in answer.json()["detail"]) == (413, True)


def test_an_upload_that_does_not_arrive_ends(service):
    with (
        running(service, upload_seconds=0.2) as client,
        socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as connection,
    ):
        headers = b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n\r\n--x"
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\n" + headers)
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")
        assert post(client, png()).status_code == 200


def test_uploads_beyond_the_limit_are_asked_to_come_later(service):
    with running(service, max_waiting=1) as client, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda seed: post(client, png(seed=seed)), range(24)))
        refused = [answer for answer in answers if answer.status_code == 503]
        assert {answer.status_code for answer in answers} == {200, 503}
        assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
        assert post(client, png()).status_code == 200


def test_a_server_with_a_token_needs_it_for_results_only(service):
    with running(service, token=TOKEN) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            answer = post(client, png(), headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert client.get("/classifier", headers=headers).status_code == 401
        assert post(client, png(), headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        for path in ("/", "/health", "/docs", "/openapi.json", "/static/page.js"):
            assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    "path", ["/static/../predict", "/static//../classifier", "//classifier", "/classifier/", "/%63lassifier"]
)
def test_other_spellings_of_a_path_need_the_token(service, path):
    with (
        running(service, token=TOKEN) as client,
        socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as connection,
    ):
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert connection.recv(1000)[9:12] in (b"401", b"404")


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", ""])
def test_a_name_that_was_bound_to_this_machine_is_refused(client, host):
    answer = client.get("/health", headers={"Host": host})
    assert (answer.status_code, "--allow-host" in answer.json()["detail"]) == (403, True)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_pages_of_other_sites_are_refused(client, origin):
    answer = post(client, png(), headers={"Origin": origin})
    assert (answer.status_code, "pages of other sites" in answer.json()["detail"]) == (403, True)


def test_an_unexpected_error_is_not_shown_and_does_not_end_the_server(service, monkeypatch):
    with running(service) as client:
        monkeypatch.setattr(service._loaded, "predict_squares", lambda _squares: 1 / 0)
        answer = post(client, png())
        assert (answer.status_code, "ZeroDivisionError" in answer.text) == (500, False)
        assert "log" in answer.json()["detail"]
        monkeypatch.undo()
        assert post(client, png()).status_code == 200


def test_only_a_server_on_this_machine_needs_no_token():
    for host in ("127.0.0.1", "::1", "localhost", "127.0.0.2"):
        check_token(host, "")
    for host in ("0.0.0.0", "::", "192.168.1.2", "cxr.example"):
        with pytest.raises(UsageError, match=TOKEN_VARIABLE):
            check_token(host, "")
        check_token(host, TOKEN)
    with pytest.raises(UsageError, match="at least 16"):
        check_token("127.0.0.1", "short")


def test_the_token_is_read_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, f"{TOKEN}\n")
    assert read_token(None) == TOKEN
    (tmp_path / "token").write_text("another-token-of-a-file\n")
    assert read_token(tmp_path / "token") == "another-token-of-a-file"
    (tmp_path / "empty").write_text("\n")
    for name in ("empty", "missing"):
        with pytest.raises(UsageError, match="token"):
            read_token(tmp_path / name)
