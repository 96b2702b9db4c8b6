"""The platform API: models, prices, usage, requests, deletion, deliveries; OpenAPI documents."""

from datetime import UTC, datetime, timedelta

import pytest

from glmimage.jobs import FileRecord

APP = "fal-ai/glm-image"
EDIT = f"{APP}/image-to-image"
V1 = "/platform/v1"
BODY = {"prompt": "a square", "image_size": "square"}


@pytest.fixture(scope="module")
def used(server):
    """Ask for two pictures that are painted, one that crashes and one that is invalid."""
    for prompt in ("one", "two", "crash"):
        server.http.post(f"/run/{APP}", json={**BODY, "prompt": prompt})
    server.http.post(f"/run/{EDIT}", json=BODY)
    return server


def get(server, path, **query):
    answer = server.http.get(f"{V1}{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_models(server):
    assert [m["endpoint_id"] for m in get(server, "/models")["models"]] == [APP, EDIT]
    (model,) = get(server, "/models", endpoint_id=EDIT, expand="openapi-3.0")["models"]
    assert f"/{EDIT}" in model["openapi"]["paths"]
    assert model["metadata"]["category"] == "image-to-image"


def test_prices(server):
    prices = get(server, "/models/pricing", endpoint_id=APP)["prices"]
    assert prices == [
        {"endpoint_id": APP, "unit_price": 0.15, "unit": "megapixels", "currency": "USD"}
    ]


def test_estimates(used):
    body = {"estimate_type": "unit_price", "endpoints": {APP: {"unit_quantity": 8}}}
    answer = used.http.post(f"{V1}/models/pricing/estimate", json=body)
    assert answer.json() == {"estimate_type": "unit_price", "total_cost": 1.2, "currency": "USD"}
    body = {"estimate_type": "historical_api_price", "endpoints": {APP: {"call_quantity": 10}}}
    answer = used.http.post(f"{V1}/models/pricing/estimate", json=body)
    assert answer.json()["total_cost"] == pytest.approx(10 * 0.512 * 0.512 * 0.15, rel=1e-3)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"estimate_type": "guess", "endpoints": {APP: {"unit_quantity": 1}}},
        {"estimate_type": "unit_price", "endpoints": {}},
        {"estimate_type": "unit_price", "endpoints": [APP]},
        {"estimate_type": "unit_price", "endpoints": {"other": {"unit_quantity": 1}}},
        {"estimate_type": "unit_price", "endpoints": {APP: {}}},
        {"estimate_type": "unit_price", "endpoints": {APP: 5}},
        {"estimate_type": "unit_price", "endpoints": {APP: {"unit_quantity": "8"}}},
        {"estimate_type": "unit_price", "endpoints": {APP: {"unit_quantity": True}}},
        {"estimate_type": "unit_price", "endpoints": {APP: {"unit_quantity": -1}}},
        {"estimate_type": "unit_price", "endpoints": {APP: {"unit_quantity": 1e300}}},
        {"estimate_type": ["unit_price"], "endpoints": {APP: {"unit_quantity": 1}}},
    ],
)
def test_bad_estimates(server, body):
    answer = server.http.post(f"{V1}/models/pricing/estimate", json=body)
    assert answer.status_code == 400
    assert answer.json()["error_type"] == "bad_request"


def test_usage(used):
    answer = get(used, "/models/usage", expand="summary,time_series", timeframe="hour")
    (row,) = answer["summary"]
    assert row["endpoint_id"] == APP
    assert row["quantity"] == pytest.approx(2 * 0.262144)
    assert row["cost_total"] == pytest.approx(2 * 0.262144 * 0.15, rel=1e-3)
    bucket = datetime.fromisoformat(answer["time_series"][0]["bucket"])
    assert bucket.minute == 0
    later = datetime.now(UTC) + timedelta(days=1)
    assert get(used, "/models/usage", start=later.isoformat(), expand="summary")["summary"] == []


def test_billing_events(used):
    events = get(used, "/models/billing-events")["billing_events"]
    assert [event["cost_total"] for event in events] == [pytest.approx(0.0393, rel=1e-2)] * 2
    one = get(used, "/models/billing-events", request_id=events[0]["request_id"])
    assert one["billing_events"] == events[:1]


def test_requests_by_endpoint(used):
    items = get(used, "/models/requests/by-endpoint", endpoint_id=APP)["items"]
    assert [item["status_code"] for item in items] == [500, 200, 200]
    assert items[1]["duration"] >= 0
    assert items[1]["sent_at"] <= items[1]["started_at"] <= items[1]["ended_at"]
    failed = get(used, "/models/requests/by-endpoint", endpoint_id=EDIT, status="user_error")
    assert [item["status_code"] for item in failed["items"]] == [422]
    both = get(used, "/models/requests/search", status="success,error")
    assert {item["status_code"] for item in both["results"]} == {200, 500}


def test_payloads_are_shown_when_asked_for(used):
    plain = get(used, "/models/requests/search")["results"][-1]
    assert "json_input" not in plain
    full = get(used, "/models/requests/search", expand="payloads", sort_by="duration")["results"]
    by_prompt = {item["json_input"]["prompt"]: item for item in full}
    assert by_prompt["one"]["json_output"]["images"][0]["url"].startswith(used.url)
    assert by_prompt["crash"]["json_output"]["detail"]


def test_pages(used):
    first = get(used, "/models/requests/search", limit=3)
    assert (len(first["results"]), first["has_more"]) == (3, True)
    second = get(used, "/models/requests/search", limit=3, cursor=first["next_cursor"])
    assert (len(second["results"]), second["has_more"], second["next_cursor"]) == (1, False, None)
    assert first["results"][-1]["request_id"] != second["results"][0]["request_id"]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/models", {"endpoint_id": "other"}),
        ("/models", {"endpoint_id": ",".join([APP] * 51)}),
        ("/models", {"expand": "everything"}),
        ("/models/usage", {"start": "yesterday"}),
        ("/models/usage", {"start": "2026-99-99"}),
        ("/models/usage", {"timeframe": "year"}),
        ("/models/requests/by-endpoint", {}),
        ("/models/requests/search", {"limit": "0"}),
        ("/models/requests/search", {"limit": "101"}),
        ("/models/requests/search", {"limit": "ten"}),
        ("/models/requests/search", {"cursor": "?"}),
        ("/models/requests/search", {"cursor": "LTE="}),
        ("/models/requests/search", {"status": "fine"}),
        ("/models/requests/search", {"sort_by": "name"}),
        ("/webhooks", {"limit": "1e3"}),
    ],
)
def test_bad_queries(server, path, query):
    answer = server.http.get(f"{V1}{path}", params=query)
    assert answer.status_code == 400
    assert answer.json()["error_type"] == "bad_request"


def test_a_key_sees_its_own_requests_only(used):
    text, _ = used.call(used.store.create_key("other"))
    headers = {"authorization": f"Key {text}"}
    for path, name in (
        ("/models/requests/search", "results"),
        ("/models/billing-events", "billing_events"),
        ("/models/usage?expand=summary", "summary"),
        ("/webhooks", "deliveries"),
    ):
        assert used.http.get(f"{V1}{path}", headers=headers).json()[name] == []
    request_id = get(used, "/models/requests/search")["results"][0]["request_id"]
    answer = used.http.delete(f"{V1}/models/requests/{request_id}/payloads", headers=headers)
    assert answer.status_code == 404


def test_payload_deletion(server):
    answer = server.http.post(f"/run/{APP}", json=BODY)
    request_id, url = answer.headers["x-fal-request-id"], answer.json()["images"][0]["url"]
    deleted = server.http.delete(f"{V1}/models/requests/{request_id}/payloads")
    assert deleted.json() == {"cdn_delete_results": [{"link": url, "exception": None}]}
    assert server.stranger.get(url).status_code == 404
    assert server.http.get(f"/queue/{APP}/requests/{request_id}").status_code == 404
    assert len(server.call(server.store.billing_events(job_id=request_id))) == 1
    unknown = server.http.delete(f"{V1}/models/requests/unknown/payloads")
    assert unknown.status_code == 404


def test_payloads_of_what_is_under_way_are_kept(paused):
    request_id = paused.submit()["request_id"]
    answer = paused.http.delete(f"{V1}/models/requests/{request_id}/payloads")
    assert answer.status_code == 409


def test_deliveries(serve):
    server = serve()
    body = server.submit(query={"fal_webhook": "http://127.0.0.1:1/hook"})
    server.completed(body["request_id"])

    def tried():
        rows = get(server, "/webhooks", request_id=body["request_id"])["deliveries"]
        return rows if rows and rows[0]["attempts"] else None

    (row,) = server.until(tried)
    assert row["url"] == "http://127.0.0.1:1/hook"
    assert row["state"] in ("pending", "failed")
    assert row["error"]


def test_meta(server):
    assert get(server, "/meta") == {"webhook_ip_ranges": []}


@pytest.mark.parametrize("surface", ["queue", "run", "rest", "platform"])
@pytest.mark.parametrize("endpoint", [APP, EDIT])
def test_openapi_documents(server, surface, endpoint):
    query = {"endpoint_id": endpoint}
    answer = server.stranger.get(f"/api/openapi/{surface}/openapi.json", params=query)
    document = answer.json()
    assert document["openapi"] == "3.0.4"
    assert document["servers"] == [{"url": f"{server.url}/{surface}"}]
    routes = {
        (route.method, route.path.replace("{id}", "{request_id}"))
        for route in server.app._router.routes()
        if route.surface == surface
    }
    for path, operations in document["paths"].items():
        for method in operations:
            assert (method.upper(), path.rstrip("/")) in routes


def test_the_queue_document_is_fals(server):
    headers = {"host": "fal.ai"}
    document = server.stranger.get("/api/openapi/queue/openapi.json", headers=headers).json()
    assert document["info"]["title"] == f"Queue OpenAPI for {APP}"
    schema = document["components"]["schemas"]["GlmImageInput"]
    assert schema["x-fal-order-properties"] == list(schema["properties"])
    assert schema["required"] == ["prompt"]
    properties = schema["properties"]
    assert properties["num_inference_steps"] | {"description": ""} == {
        "default": 30,
        "description": "",
        "maximum": 100,
        "minimum": 10,
        "title": "Num Inference Steps",
        "type": "integer",
    }
    assert properties["seed"]["nullable"]
    assert properties["image_size"]["default"] == "square_hd"


@pytest.mark.parametrize("path", ["/api/openapi/cdn/openapi.json", "/api/openapi/x/openapi.json"])
def test_documents_that_do_not_exist(server, path):
    assert server.stranger.get(path).status_code == 404


def test_documents_of_unknown_endpoints(server):
    query = {"endpoint_id": "fal-ai/other"}
    answer = server.stranger.get("/api/openapi/queue/openapi.json", params=query)
    assert answer.status_code == 400


def test_times_with_and_without_an_offset(used):
    minute_ago = datetime.now(UTC) - timedelta(minutes=1)
    for start in (minute_ago.isoformat(), minute_ago.replace(tzinfo=None).isoformat()):
        assert get(used, "/models/requests/search", start=start)["results"]
        assert get(used, "/models/requests/search", end=start)["results"] == []


def test_previews(used):
    """Asked for by a header; the newest of each picture, and only with the request's own key."""
    asked = used.submit("previews", headers={"x-glmimage-preview": "on"})
    more = used.submit("more previews", headers={"x-glmimage-preview": "3"})
    assert used.call(used.store.get(asked["request_id"])).input["preview"] == 1
    assert used.call(used.store.get(more["request_id"])).input["preview"] == 3
    silent = used.submit("no previews")
    assert "preview" not in used.call(used.store.get(silent["request_id"])).input
    used.completed(asked["request_id"])

    path = f"/models/requests/{asked['request_id']}/previews"
    assert get(used, path) == {"previews": []}
    for created, name in (
        (10, "preview-1-0.jpg"),
        (20, "preview-0-0.jpg"),
        (30, "preview-1-1.jpg"),
    ):
        used.call(used.files.put(f"previews/{created}", b"jpeg"))
        record = FileRecord(
            id=f"preview-{created}",
            path=f"previews/{created}",
            content_type="image/jpeg",
            size=4,
            name=name,
            created=created,
            kind="preview",
            job_id=asked["request_id"],
        )
        used.call(used.store.add_file(record))
    first, second = get(used, path)["previews"]
    assert (first["image_index"], second["image_index"]) == (0, 1)
    assert "/preview-20/" in first["url"]
    assert "/preview-30/" in second["url"]
    assert used.stranger.get(second["url"]).content == b"jpeg"

    text, _ = used.call(used.store.create_key("another"))
    answer = used.stranger.get(f"{V1}{path}", headers={"authorization": f"Key {text}"})
    assert answer.status_code == 404


def test_the_document_is_at_fals_place(server):
    for url, headers in (
        (f"{server.url}/platform/v1/openapi.json", {}),
        (f"{server.url}/v1/openapi.json", {"host": "api.fal.ai"}),
    ):
        found = server.stranger.get(url, headers=headers).json()
        assert found["openapi"] == "3.1.0"
        assert "/v1/models/usage" in found["paths"]
        assert found["servers"][0]["url"].endswith("/platform")
        assert "nullable" not in str(found)


def test_a_model_says_since_when_it_is_so(server):
    (model, _) = server.http.get("/platform/v1/models").json()["models"]
    at = datetime.fromisoformat(model["metadata"]["updated_at"])
    assert at <= datetime.now(UTC)
