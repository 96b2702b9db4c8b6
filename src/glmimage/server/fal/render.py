"""Turn jobs into fal's wire forms: status, result, webhook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from ...jobs import Job, LogEntry
from .errors import DOCS_URL
from .schemas import APP


def request_urls(queue_base: str, request_id: str) -> dict[str, str]:
    """Return the three URLs a client follows; they name the app, not the endpoint."""
    response = f"{queue_base}/{APP}/requests/{request_id}"
    return {
        "response_url": response,
        "status_url": f"{response}/status",
        "cancel_url": f"{response}/cancel",
    }


def submitted_body(job: Job, queue_base: str, position: int) -> dict[str, Any]:
    """Answer a submit."""
    return {
        "status": "IN_QUEUE",
        "request_id": job.id,
        **request_urls(queue_base, job.id),
        "logs": None,
        "metrics": {},
        "queue_position": position,
    }


def status_body(
    job: Job, queue_base: str, position: int, logs: Sequence[LogEntry] | None
) -> dict[str, Any]:
    """Answer a status poll. Only three words exist; `logs` is there unless it is queued."""
    urls = request_urls(queue_base, job.id)
    if job.waiting:
        return {
            "status": "IN_QUEUE",
            "request_id": job.id,
            "queue_position": position,
            **urls,
        }
    shown = None if logs is None else [log_entry(entry) for entry in logs]
    if not job.ended:
        return {"status": "IN_PROGRESS", "request_id": job.id, **urls, "logs": shown}
    body: dict[str, Any] = {"status": "COMPLETED", "request_id": job.id, **urls, "logs": shown}
    body["metrics"] = {}
    if job.state == "done":
        body["metrics"] = {"inference_time": inference_time(job)}
    else:
        body["error"] = job.error or f"Invalid status code: {job.status}"
        if job.error_type:
            body["error_type"] = job.error_type
    return body


def inference_time(job: Job) -> float:
    """Return the seconds from the worker's start to the end; 0 when nobody worked."""
    if job.finished_at is None or job.started_at is None:
        return 0.0
    return round(max(job.finished_at - job.started_at, 0.0), 3)


def log_entry(entry: LogEntry) -> dict[str, str]:
    return {
        "message": entry.message,
        "level": entry.level,
        "source": "USER",
        "timestamp": timestamp(entry.at),
    }


def timestamp(at: float) -> str:
    """Write unix seconds as ISO 8601 in UTC, with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def file_url(files_base: str, file_id: str, name: str) -> str:
    """Return where a stored file is downloaded."""
    return f"{files_base}/files/b/{file_id}/{quote(name, safe='')}"


def result_body(job: Job, files_base: str) -> tuple[int, dict[str, Any]] | None:
    """Return status and body of the answer; None when it is not kept any more."""
    if job.result is None:
        return None
    if job.state == "done":
        return 200, output(job.result, files_base)
    return job.status or 500, error_body(job.result)


def output(result: Mapping[str, Any], files_base: str) -> dict[str, Any]:
    """Render a stored result as the endpoints' output."""
    images = result["images"]
    checked = {"text_check": result["text_check"]} if result.get("text_check") else {}
    return {
        "images": [_image(image, files_base) for image in images],
        "timings": result.get("timings") or {},
        "seed": result["seed"],
        "has_nsfw_concepts": [bool(image.get("nsfw")) for image in images],
        "prompt": result["prompt"],
        **checked,
    }


def error_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a stored error: every entry of `detail[]` names its page."""
    detail = body.get("detail")
    if not isinstance(detail, list):
        return dict(body)
    entries = [{"url": DOCS_URL + str(entry.get("type")), **entry} for entry in detail]
    return {**body, "detail": entries}


def result_headers(job: Job) -> dict[str, str]:
    """Return the headers of an answer: what it costs, and where it came from."""
    headers = {"x-fal-request-id": job.id}
    if job.state == "done":
        headers["X-Fal-Billable-Units"] = f"{job.megapixels:.6g}" if not job.served_from else "0"
    elif job.ended:
        headers["X-Fal-Billable-Units"] = "0"
    if job.served_from:
        headers["X-Fal-Served-From"] = job.served_from
    return headers


def webhook_body(job: Job, files_base: str) -> dict[str, Any]:
    """Return what a webhook tells: the answer itself, or the error with its body."""
    found = result_body(job, files_base)
    body: dict[str, Any] = {"request_id": job.id, "gateway_request_id": job.id}
    if found is None:
        return {
            **body,
            "status": "OK" if job.state == "done" else "ERROR",
            "error": None if job.state == "done" else _status_error(job.status or 500),
            "payload": None,
            "payload_error": "The response is not kept any more.",
        }
    status, payload = found
    if status == 200:
        return {**body, "status": "OK", "error": None, "payload": payload}
    return {**body, "status": "ERROR", "error": _status_error(status), "payload": payload}


def _status_error(status: int) -> str:
    return f"Invalid status code: {status}"


def _image(image: Mapping[str, Any], files_base: str) -> dict[str, Any]:
    url = image.get("data_uri") or file_url(files_base, image["file_id"], image["file_name"])
    names = ("content_type", "file_name", "file_size", "width", "height")
    return {"url": url, **{name: image.get(name) for name in names}}
