"""Who may ask, and where: keys, surfaces, hosts, CORS, health, the proxy path."""

import subprocess
import sys

import httpx
import pytest

APP = "fal-ai/glm-image"
BODY = {"prompt": "a square", "image_size": "square"}


def at_host(server, host, method, path, **options):
    headers = {"host": host, **options.pop("headers", {})}
    return server.http.request(method, path, headers=headers, **options)


@pytest.mark.parametrize(
    "header", [None, "", "Key", "Key wrong", "Bearer wrong", "Basic abc", "wrong"]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"/queue/{APP}"),
        ("GET", f"/queue/{APP}/requests/unknown/status"),
        ("POST", f"/run/{APP}"),
        ("POST", f"/run/{APP}/stream"),
        ("POST", "/rest/tokens/"),
        ("GET", "/platform/v1/models"),
        ("POST", "/queue/other/app"),
        ("GET", "/nowhere"),
    ],
)
def test_without_a_valid_key_nothing_answers(server, header, method, path):
    headers = {} if header is None else {"authorization": header}
    answer = server.stranger.request(method, path, headers=headers)
    assert answer.status_code == 401
    assert answer.json() == {"detail": "invalid key credentials"}
    assert answer.headers["x-fal-request-id"]


@pytest.mark.parametrize("scheme", ["Key", "key", "KEY", "Bearer", "bearer"])
def test_schemes_of_a_key(server, scheme):
    headers = {"authorization": f"{scheme} {server.key}"}
    assert server.stranger.post(f"/queue/{APP}", json=BODY, headers=headers).status_code == 200


def test_a_revoked_key_stops_working(serve, monkeypatch):
    monkeypatch.setattr("glmimage.server.auth.REMEMBERED_S", 0.05)
    server = serve()
    text, key = server.call(server.store.create_key("brief"))
    headers = {"authorization": f"Key {text}"}
    assert server.stranger.get("/platform/v1/meta", headers=headers).status_code == 200
    server.call(server.store.revoke_key(key.id))
    server.until(
        lambda: server.stranger.get("/platform/v1/meta", headers=headers).status_code == 401
    )


def test_without_auth_everybody_may(serve):
    server = serve(auth=False)
    assert server.stranger.post(f"/run/{APP}", json=BODY).status_code == 200
    assert server.stranger.get("/platform/v1/models/requests/search").json()["results"]


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("queue.fal.run", f"/{APP}"),
        ("QUEUE.FAL.RUN:443", f"/{APP}"),
        ("queue.falrun.com", f"/{APP}"),
        ("anything.example:8443", f"/queue/{APP}"),
    ],
)
def test_submit_is_told_by_host_or_prefix(server, host, path):
    answer = at_host(server, host, "POST", path, json=BODY)
    assert answer.json()["status"] == "IN_QUEUE"


@pytest.mark.parametrize(
    ("host", "path"),
    [("fal.run", f"/{APP}"), ("falrun.com:443", f"/{APP}/"), ("x.example", f"/run/{APP}")],
)
def test_run_is_told_by_host_or_prefix(server, host, path):
    assert at_host(server, host, "POST", path, json=BODY).json()["images"]


@pytest.mark.parametrize("host", ["rest.fal.ai", "rest.alpha.fal.ai"])
def test_rest_is_told_by_host(server, host):
    body = {"allowed_apps": ["glm-image"]}
    assert at_host(server, host, "POST", "/tokens/", json=body).status_code == 200


def test_platform_is_told_by_host(server):
    assert at_host(server, "api.fal.ai", "GET", "/v1/models").json()["models"]


def test_a_fal_host_ignores_prefixes(server):
    assert at_host(server, "fal.run", "POST", f"/queue/{APP}", json=BODY).status_code == 404


def test_bare_addresses_are_ambiguous(server):
    answer = server.http.post(f"/{APP}", json=BODY)
    assert answer.status_code == 404
    assert "/queue" in answer.json()["detail"]


def test_urls_lead_back_the_way_one_came(server):
    redirected = at_host(server, "queue.fal.run", "POST", f"/{APP}", json=BODY).json()
    assert redirected["status_url"].startswith(f"https://queue.fal.run/{APP}/requests/")
    other = at_host(server, "pictures.lan:9000", "POST", f"/queue/{APP}", json=BODY).json()
    assert other["status_url"].startswith(f"http://pictures.lan:9000/queue/{APP}/requests/")
    forwarded = server.http.post(
        f"/queue/{APP}",
        json=BODY,
        headers={"x-forwarded-host": "pictures.example", "x-forwarded-proto": "https"},
    ).json()
    assert forwarded["cancel_url"].startswith(f"https://pictures.example/queue/{APP}/requests/")


def test_files_of_redirected_clients_have_the_servers_own_address(server):
    output = at_host(server, "fal.run", "POST", f"/{APP}", json=BODY).json()
    url = output["images"][0]["url"]
    assert url.startswith(f"{server.url}/cdn/files/b/")
    assert server.stranger.get(url).status_code == 200


def test_a_strange_host_is_not_repeated(server):
    for host in ('x"><script>', "a b", "x/../y"):
        headers = {"x-forwarded-host": host}
        body = server.http.post(f"/queue/{APP}", json=BODY, headers=headers).json()
        assert body["status_url"].startswith(f"{server.url}/queue/")


def test_a_public_address_wins(serve):
    server = serve(public_url="https://pictures.example/glm")
    body = server.submit()
    assert body["status_url"].startswith(f"https://pictures.example/glm/queue/{APP}/requests/")
    output = server.result(body["request_id"]).json()
    assert output["images"][0]["url"].startswith("https://pictures.example/glm/cdn/files/b/")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", f"/queue/{APP}", "GET, POST"),
        ("DELETE", f"/queue/{APP}/requests/x", "GET, HEAD"),
        ("POST", f"/queue/{APP}/requests/x/cancel", "PUT"),
        ("PATCH", "/health/live", "GET, HEAD"),
        ("PATCH", f"/run/{APP}", "GET, POST"),
        ("OPTIONS", f"/queue/{APP}", "GET, POST"),
    ],
)
def test_other_methods(server, method, path, allowed):
    answer = server.http.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/queue/other/app", "/run/fal-ai/flux", "/queue/fal-ai"])
def test_unknown_endpoints(server, path):
    answer = server.http.post(path, json=BODY)
    assert answer.status_code == 404
    assert "not found" in answer.json()["detail"]


@pytest.mark.parametrize(
    "path",
    ["/queue", "/queue/", "/queue//", "/%00", "/é", "/queue/%2e%2e/run", "/a" * 99],
)
def test_strange_paths(server, path):
    assert server.http.get(path).status_code == 404


def test_head_has_no_body(server):
    answer = server.stranger.head("/health/live")
    assert (answer.status_code, answer.content) == (200, b"")


def test_health(serve):
    server = serve()
    assert server.stranger.get("/health/live").json() == {"status": "ok"}
    ready = server.stranger.get("/health/ready")
    server.until(lambda: server.stranger.get("/health/ready").status_code == 200)
    assert server.stranger.get("/health/ready").json()["models"] == ["squares"]
    assert ready.status_code in (200, 503)


def test_not_ready_says_why(serve, monkeypatch):
    monkeypatch.setattr("glmimage.server.capacity.REMEMBERED_S", 0.0)
    server = serve()
    server.tell(server.worker.awake.clear)
    server.until(lambda: server.stranger.get("/health/ready").status_code == 200)

    async def lose():
        await server.store.worker_gone(server.worker.id)

    def gone():
        server.call(lose())
        answer = server.stranger.get("/health/ready")
        return answer if answer.status_code == 503 else None

    answer = server.until(gone)
    assert "glmimage worker" in answer.json()["reason"]
    assert answer.headers["retry-after"]
    server.call(server.store.worker_seen("loading", model="nano", ready=False))
    assert "loading" in server.stranger.get("/health/ready").json()["reason"]


def test_preflight(server):
    headers = {
        "origin": "https://page.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,x-fal-target-url,x-own",
    }
    answer = server.stranger.options(f"/queue/{APP}", headers=headers)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "PUT" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == "authorization,x-fal-target-url,x-own"


@pytest.mark.parametrize("path", ["/health/live", f"/queue/{APP}/requests/x", "/nowhere"])
def test_pages_may_read_the_request_id(server, path):
    answer = server.stranger.get(path, headers={"origin": "https://page.example"})
    assert answer.headers["access-control-allow-origin"] == "*"
    exposed = answer.headers["access-control-expose-headers"]
    for name in ("x-fal-request-id", "x-fal-request-timeout-type", "x-fal-error-type"):
        assert name in exposed


def test_origins_can_be_named(serve):
    server = serve(cors_origins="https://a.example, https://b.example")
    known = server.stranger.get("/health/live", headers={"origin": "https://b.example"})
    assert known.headers["access-control-allow-origin"] == "https://b.example"
    assert known.headers["vary"] == "Origin"
    other = server.stranger.get("/health/live", headers={"origin": "https://c.example"})
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        (f"/queue/{APP}/video", f"Path '{APP}/video' not found"),
        ("/run/fal-ai/flux/dev", "Application 'fal-ai/flux' not found"),
    ],
)
def test_what_is_not_served_is_named(server, path, detail):
    answer = server.http.post(path, json=BODY)
    assert (answer.status_code, answer.json()) == (404, {"detail": detail})


def proxied(server, method, target, client=None, **options):
    headers = {"x-fal-target-url": target, **options.pop("headers", {})}
    client = client or server.http
    return client.request(method, "/api/fal/proxy", headers=headers, **options)


def test_proxy_maps_every_service(server):
    submitted = proxied(server, "POST", f"https://queue.fal.run/{APP}", json=BODY).json()
    base = f"https://queue.fal.run/{APP}/requests/{submitted['request_id']}"
    server.completed(submitted["request_id"])
    status = proxied(server, "GET", f"{base}/status?logs=1")
    assert (status.status_code, len(status.json()["logs"])) == (200, 2)
    output = proxied(server, "GET", base).json()
    assert output["images"][0]["url"].startswith(f"{server.url}/cdn/files/")
    assert proxied(server, "PUT", f"{base}/cancel").status_code == 400
    run = proxied(server, "POST", f"https://fal.run/{APP}", json=BODY)
    assert run.headers["x-fal-request-id"]
    assert run.json()["images"]
    token = proxied(
        server, "POST", "https://rest.alpha.fal.ai/tokens/", json={"allowed_apps": ["glm-image"]}
    )
    assert isinstance(token.json(), str)
    upload = proxied(
        server,
        "POST",
        "https://rest.fal.ai/storage/upload/initiate?storage_type=fal-cdn-v3",
        json={"file_name": "a.png", "content_type": "image/png"},
    ).json()
    assert upload["upload_url"].startswith(server.url)


def test_proxy_streams(server):
    target = f"https://fal.run/{APP}/stream"
    headers = {"x-fal-target-url": target}
    with server.http.stream("POST", "/api/fal/proxy", json=BODY, headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert '"images"' in response.read().decode()


def test_proxy_takes_the_own_address(server):
    assert proxied(server, "POST", f"{server.url}/run/{APP}", json=BODY).status_code == 200


@pytest.mark.parametrize(
    "target",
    [
        "",
        "https://example.com/",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "fal.run/x",
        "https://",
        "https://[",
        "https://fal.run.example/fal-ai/glm-image",
        "https://evil@example.com/",
        "http://127.0.0.1:1/run/fal-ai/glm-image",
        "gopher://fal.run/",
    ],
)
def test_proxy_refuses_other_targets(server, target):
    answer = proxied(server, "POST", target, json=BODY)
    assert answer.status_code == 400
    assert answer.json() == "Invalid request"
    assert answer.headers["x-fal-error-type"] == "bad_request"


def test_proxy_takes_options_of_any_kind(server):
    answer = server.stranger.options("/api/fal/proxy")
    assert answer.status_code == 204
    assert "PUT" in answer.headers["access-control-allow-methods"]
    assert server.http.options("/queue/fal-ai/glm-image").status_code == 405


def test_proxy_cannot_reach_itself(server):
    assert proxied(server, "GET", f"{server.url}/api/fal/proxy").status_code == 400


def test_proxy_needs_a_key_unless_it_is_opened(server, serve):
    target = f"https://fal.run/{APP}"
    assert proxied(server, "POST", target, server.stranger, json=BODY).status_code == 401
    opened = serve(open_proxy=True)
    assert proxied(opened, "POST", target, opened.stranger, json=BODY).status_code == 200
    assert opened.stranger.post(f"/run/{APP}", json=BODY).status_code == 401
    wrong = {"authorization": "Key wrong"}
    refused = proxied(opened, "POST", target, opened.stranger, json=BODY, headers=wrong)
    assert refused.status_code == 401


def test_proxy_methods(server):
    answer = server.http.patch("/api/fal/proxy")
    assert answer.status_code == 405
    assert "POST" in answer.headers["allow"]


def test_nothing_is_redirected(server):
    with httpx.Client(base_url=server.url, follow_redirects=False) as client:
        for path in ("/queue/fal-ai/glm-image/", "/run/fal-ai/glm-image/", "/rest/tokens", "/x/"):
            assert not client.post(path).is_redirect


def test_the_server_loads_no_torch():
    script = (
        "import sys, glmimage.server.app, glmimage.server.process; "
        "print(sorted({'torch', 'transformers', 'diffusers', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
