"""The real server of the dashboard with real requests: who may use it, and what they may change."""

import http.client
import json
import threading
from wsgiref.simple_server import make_server

import optuna
import pytest

from automl_cxr.results.dashboard.access import Access, protect
from automl_cxr.results.dashboard.serving import _QuietHandler, _ThreadedServer, dashboard_app


@pytest.fixture
def storage(tmp_path):
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'studies.db'}")
    optuna.create_study(study_name="kept", storage=storage)
    return storage


@pytest.fixture
def serve(storage, tmp_path):
    """Return a function that starts a dashboard and returns its rules and a function for requests."""
    servers = []

    def start(**rules):
        server = make_server("127.0.0.1", 0, None, server_class=_ThreadedServer, handler_class=_QuietHandler)
        access = Access(host="127.0.0.1", port=server.server_port, **rules)
        server.set_app(protect(dashboard_app(storage, tmp_path), access))
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        servers.append((server, thread))

        def request(path, method="GET", body=None, **headers):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
            headers = {name.replace("_", "-"): value for name, value in headers.items()}
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
            content = response.read().decode()
            connection.close()
            return response.status, dict(response.getheaders()), content

        return access, request

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def cookie_of(access):
    return f"other={{malformed; {access.cookie}={access.token}"


def test_the_printed_address_opens_the_dashboard_and_the_browser_remembers_the_token(serve):
    access, request = serve()
    assert access.url.startswith(f"http://127.0.0.1:{access.port}/dashboard?token=")
    assert len(access.token) >= 32
    status, headers, _ = request(f"/dashboard/studies/1?token={access.token}&tab=a%20b")
    assert (status, headers["Location"]) == (303, "/dashboard/studies/1?tab=a+b")
    cookie = headers["Set-Cookie"]
    assert cookie == f"{access.cookie}={access.token}; Path=/; HttpOnly; SameSite=Lax"
    status, _, page = request("/dashboard/studies/1", Cookie=cookie.partition(";")[0])
    assert (status, "<title>Optuna Dashboard</title>" in page) == (200, True)
    status, _, content = request("/api/studies", Cookie=cookie_of(access), Origin=f"http://127.0.0.1:{access.port}")
    assert (status, [study["study_name"] for study in json.loads(content)["study_summaries"]]) == (200, ["kept"])


@pytest.mark.parametrize(
    "path", ["/", "/dashboard", "/api/studies", "/api/meta", "/csv/1", "/static/bundle.js", "/favicon.ico"]
)
def test_nothing_is_served_without_the_token(serve, path):
    access, request = serve()
    for query, headers in (
        ("", {}),
        ("?token=", {}),
        (f"?token={access.token[:-1]}", {}),
        ("?token=%C3%A9%00", {}),
        ("", {"Cookie": f"{access.cookie}=wrong"}),
        ("", {"Cookie": f"{access.cookie}-2={access.token}"}),
        ("", {"Authorization": f"Bearer {access.token}"}),
    ):
        status, _, content = request(path + query, **headers)
        assert status == 403
        assert "that `automl-cxr dashboard` printed" in (json.loads(content)["reason"] if "/api/" in path else content)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "localhost.evil.example", "127.0.0.1@evil.example", ""]
)
def test_a_name_that_was_bound_to_this_machine_is_refused(serve, storage, host):
    access, request = serve(allow_changes=True)
    host = host.format(port=access.port)
    for method, path, body in (
        ("GET", "/api/studies", None),
        ("GET", f"/dashboard?token={access.token}", None),
        ("POST", "/api/studies", {"study_name": "new", "directions": ["minimize"]}),
        ("DELETE", "/api/studies/1", {}),
    ):
        status, headers, content = request(path, method, body, Host=host, Cookie=cookie_of(access))
        assert (status, "Set-Cookie" in headers) == (403, False)
        assert "--allow-host" in content
    assert optuna.study.get_all_study_names(storage) == ["kept"]


@pytest.mark.parametrize("host", ["localhost:{port}", "localhost:9000", "127.0.0.1:{port}", "[::1]:{port}", "LOCALHOST"])
def test_names_of_this_machine_are_served_also_through_a_tunnel(serve, host):
    access, request = serve()
    assert request("/api/studies", Host=host.format(port=access.port), Cookie=cookie_of(access))[0] == 200


def test_the_name_of_a_reverse_proxy_can_be_allowed(serve):
    access, request = serve(other_hosts=("Cxr.Example",), allow_changes=True)
    body = {"study_name": "new", "directions": ["minimize"]}
    origins = {"Origin": "https://cxr.example", "Cookie": cookie_of(access)}
    assert request("/api/studies", "POST", body, Host="cxr.example", **origins)[0] == 201
    assert request("/api/studies", "POST", body | {"study_name": "2"}, Host="127.0.0.1", **origins)[0] == 201
    assert request("/api/studies", Host="evil.example", Cookie=cookie_of(access))[0] == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1.evil.example"])
def test_pages_of_other_sites_and_ports_are_refused(serve, storage, origin):
    access, request = serve(allow_changes=True)
    body = {"study_name": "new", "directions": ["minimize"]}
    for method in ("GET", "POST"):
        status, _, content = request("/api/studies", method, body, Cookie=cookie_of(access), Origin=origin)
        assert (status, "pages of other sites" in content) == (403, True)
    assert optuna.study.get_all_study_names(storage) == ["kept"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/studies", {"study_name": "new", "directions": ["minimize"]}),
        ("POST", "/api/studies/1/rename", {"study_name": "new"}),
        ("DELETE", "/api/studies/1", {}),
        ("POST", "/api/trials/1/tell", {"state": "Fail"}),
        ("POST", "/api/trials/1/user-attrs", {"user_attrs": {"a": 1}}),
        ("PUT", "/api/studies/1/preference_feedback_component", {"output_type": "note"}),
        ("DELETE", "/api/artifacts/1/12-34-56", {}),
        ("POST", "/api/studies/1/note", {"body": "x", "version": 1}),
        ("PUT", "/api/studies/1/../1/note", {"body": "x", "version": 1}),
    ],
)
def test_only_notes_are_written_unless_changes_are_allowed(serve, storage, method, path, body):
    access, request = serve()
    before = storage.get_all_studies()[0].system_attrs
    status, _, content = request(path, method, body, Cookie=cookie_of(access))
    assert (status, "--allow-changes" in json.loads(content)["reason"]) == (403, True)
    assert optuna.study.get_all_study_names(storage) == ["kept"]
    assert storage.get_all_studies()[0].system_attrs == before
    assert request("/api/studies/1/note", "PUT", {"body": "seen", "version": 1}, Cookie=cookie_of(access))[0] == 204


def test_allowed_changes_are_made(serve, storage):
    access, request = serve(allow_changes=True)
    body = {"study_name": "new", "directions": ["minimize"]}
    assert request("/api/studies", "POST", body, Cookie=cookie_of(access))[0] == 201
    assert request("/api/studies/1", "DELETE", {}, Cookie=cookie_of(access))[0] == 204
    assert optuna.study.get_all_study_names(storage) == ["new"]


def test_a_link_of_another_site_does_not_redirect_to_another_site(serve):
    access, request = serve()
    _, headers, _ = request(f"//evil.example/%2f..?token={access.token}")
    assert headers["Location"].startswith("/evil.example")
