"""Buffer requests in Redis, and submit them at a steady pace. Needs `pip install redis`.

    python redis_producer.py add "A sign that says 'OPEN'" "A sign that says 'CLOSED'"
    python redis_producer.py work     until the buffer is empty

A request is moved, not taken: what a worker that dies was busy with is found by the next one.
"""

import json
import os
import sys

import fal_client
import redis

WAITING, BUSY, DONE = "pictures:waiting", "pictures:busy", "pictures:done"
AT_A_TIME = 4

buffer = redis.Redis.from_url(
    os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"), decode_responses=True
)


def add(prompts):
    for prompt in prompts:
        arguments = {"prompt": prompt, "image_size": "square", "num_inference_steps": 10}
        buffer.rpush(WAITING, json.dumps(arguments))
    print(f"{buffer.llen(WAITING)} waiting")


def work():
    while buffer.lmove(BUSY, WAITING, "RIGHT", "LEFT"):
        pass  # left over by a worker that died
    while True:
        batch = [entry for _ in range(AT_A_TIME) if (entry := buffer.lmove(WAITING, BUSY))]
        if not batch:
            return
        handles = [
            (entry, fal_client.submit("fal-ai/glm-image", arguments=json.loads(entry)))
            for entry in batch
        ]
        for entry, handle in handles:
            prompt = json.loads(entry)["prompt"]
            try:
                answer = handle.get()["images"][0]["url"]
            except fal_client.FalClientHTTPError as error:
                answer = f"failed: {error.status_code}"
            buffer.hset(DONE, handle.request_id, json.dumps({"prompt": prompt, "answer": answer}))
            buffer.lrem(BUSY, 1, entry)
            print(prompt, "->", answer)


if __name__ == "__main__":
    if sys.argv[1:2] == ["add"] and len(sys.argv) > 2:
        add(sys.argv[2:])
    elif sys.argv[1:] == ["work"]:
        work()
    else:
        sys.exit(__doc__)
