"""The public names of the hosted service, which clients have built in."""

RUN_HOSTS = ("fal.run", "falrun.com")
QUEUE_HOSTS = ("queue.fal.run", "queue.falrun.com")
REST_HOSTS = ("rest.fal.ai", "rest.alpha.fal.ai")
CDN_HOSTS = ("v3.fal.media", "v3b.fal.media")
PLATFORM_HOSTS = ("api.fal.ai", "fal.ai")

# falrun.com is where the Python client repeats a request, key and prompt included, when the
# connection to fal.run fails
FAL_DOMAINS = ("fal.run", "fal.ai", "fal.media", "falrun.com")

CERTIFICATE_NAMES = (
    *(name for domain in FAL_DOMAINS for name in (domain, f"*.{domain}")),
    "rest.alpha.fal.ai",  # a wildcard stands for one label
)


def is_fal_host(name: str) -> bool:
    """Say whether a host name, without its port, belongs to the hosted service."""
    name = name.lower().rstrip(".")
    return any(name == domain or name.endswith(f".{domain}") for domain in FAL_DOMAINS)
