"""Tell the three kinds of failure apart, and try again only where that can help."""

import random
import sys
import time

import fal_client
import httpx

TRIES = 3


class InvalidInput(Exception):
    """Something in the request is wrong; the same request will fail again."""


class ContentRefused(Exception):
    """The prompt or a reference is against the content policy; change it."""


def generate(arguments):
    for attempt in range(1, TRIES + 1):
        try:
            return fal_client.subscribe("fal-ai/glm-image", arguments=arguments)
        except fal_client.FalClientHTTPError as error:
            if error.status_code == 422:
                raise classify(error) from error
            if error.status_code < 500 and error.status_code != 429:
                raise  # a wrong key, an unknown request: not a matter of time
            reason = f"{error.status_code} {error.error_type or ''}"
        except httpx.TransportError as error:
            reason = str(error)
        if attempt == TRIES:
            raise SystemExit(f"Still failing after {TRIES} tries: {reason}")
        pause = 2**attempt + random.random()
        print(f"try {attempt} failed ({reason}); next in {pause:.1f} s", file=sys.stderr)
        time.sleep(pause)


def classify(error):
    details = error.response.json()["detail"]
    first = details[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "content_policy_violation":
        return ContentRefused(first["msg"])
    return InvalidInput(f"{where}: {first['msg']}")


def main(prompt, steps):
    try:
        result = generate(
            {"prompt": prompt, "image_size": "square", "num_inference_steps": steps, "seed": 1}
        )
    except InvalidInput as error:
        print("fix the request:", error)
    except ContentRefused as error:
        print("choose another prompt:", error)
    else:
        print(result["images"][0]["url"])


if __name__ == "__main__":
    main(
        sys.argv[1] if len(sys.argv) > 1 else "A sign that says 'OPEN'",
        int(sys.argv[2]) if len(sys.argv) > 2 else 10,
    )
