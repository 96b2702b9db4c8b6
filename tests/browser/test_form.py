"""What is clicked in the form is what the request carries."""

import json
import re

from .painting import add_references, ask, finished, paint


def sent_input(page):
    """Press Paint; return the input that the page sends."""
    with page.expect_request(lambda request: "/queue/fal-ai/" in request.url) as sent:
        page.click("button[type=submit]")
    return json.loads(sent.value.post_data)


def test_switches_and_format(visit):
    page = visit()
    ask(page)
    page.click("text=Safety check")
    page.click("text=Expand the prompt")
    page.get_by_label("PNG").click()
    sent = sent_input(page)
    assert sent["enable_safety_checker"] is False
    assert sent["enable_prompt_expansion"] is True
    assert sent["output_format"] == "png"
    finished(page)
    with page.expect_download() as download:
        page.click("text=Download")
    assert download.value.suggested_filename.endswith(".png")


def test_lock_an_empty_seed(visit):
    """It keeps the seed of the picture that is shown; without one, any."""
    page = visit()
    lock = page.get_by_role("button", name="Lock the seed")
    lock.click()
    assert lock.get_attribute("aria-pressed") == "true"
    drawn = page.input_value("#seed")
    assert drawn.isdigit()
    ask(page)
    assert sent_input(page)["seed"] == int(drawn)
    finished(page)

    page.fill("#seed", "")
    assert lock.get_attribute("aria-pressed") == "false"
    assert "seed" not in sent_input(page)
    finished(page)
    seed = re.search(r"seed (\d+)", page.locator(".run-facts").inner_text())[1]
    assert seed != drawn
    lock.click()
    assert page.input_value("#seed") == seed
    page.wait_for_selector("text=Locked: the same input gives the same picture.")
    assert sent_input(page)["seed"] == int(seed)
    finished(page)


def test_characters_are_counted_as_the_server_counts(visit):
    page = visit()
    ask(page, prompt="🎨" * 4097)
    page.click("button[type=submit]")
    page.wait_for_selector("text=The prompt has 4097 characters")
    page.route("**/queue/fal-ai/**", lambda route: route.abort())
    page.fill("#prompt", "🎨" * 4096)
    assert len(sent_input(page)["prompt"]) == 4096


def test_a_fifth_reference(visit, photos):
    """Said where the references are, until one is removed."""
    page = visit()
    paint(page)
    finished(page)
    add_references(page, [*photos, *photos])
    page.click("text=Use as reference")
    page.wait_for_selector(".references >> text=At most 4 references are used.")
    page.get_by_role("button", name="Remove Reference 4").click()
    page.wait_for_selector(".references .fault", state="detached")


def test_a_picture_that_cannot_be_fetched(visit):
    """Said at the picture; one that has expired is marked so."""
    page = visit()
    paint(page)
    finished(page)
    page.route("**/files/b/**", lambda route: route.abort())
    for button in ("Download", "Use as reference"):
        page.click(f"text={button}")
        page.wait_for_selector(".picture >> text=The server does not answer. Try again")
    page.unroute("**/files/b/**")
    page.route("**/files/b/**", lambda route: route.fulfill(status=404))
    page.click("text=Download")
    page.wait_for_selector("text=This picture has expired")
