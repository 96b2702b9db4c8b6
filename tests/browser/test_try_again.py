"""A request that was not sent whole: what the page says, and that it can be sent again."""

import json

import pytest

from .conftest import DESKTOP, PHONE
from .painting import add_references, finished, paint

INITIATE = "**/rest/storage/upload/initiate*"
UPLOADED = "**/files/**"


@pytest.fixture
def edit_page(visit, photos):
    """Return a page with two references."""
    page = visit()
    add_references(page, photos)
    return page


def try_again(page):
    """Press the button; return the addresses of the references that are sent."""
    with page.expect_request(lambda request: request.url.endswith("/image-to-image")) as sent:
        page.get_by_role("button", name="Try again").click()
    return json.loads(sent.value.post_data)["image_urls"]


def hold_uploads(page):
    """Let uploads wait; return those that do."""
    held = []

    def hold(route):  # a function, which playwright can mark
        held.append(route)

    page.route(INITIATE, hold)
    return held


def test_cancelled_while_uploading(edit_page):
    held = hold_uploads(edit_page)
    paint(edit_page)
    edit_page.wait_for_selector("text=Uploading the references")
    edit_page.click("text=Cancel")
    edit_page.wait_for_selector("text=Nothing was sent.")
    held[0].abort()
    edit_page.unroute(INITIATE)
    edit_page.wait_for_timeout(300)
    assert edit_page.locator(".notice.cancelled").count() == 1  # and not failed
    urls = try_again(edit_page)
    assert [url.rpartition("/")[2] for url in urls] == ["house.png", "hills.png"]
    finished(edit_page)


def test_left_while_uploading(edit_page, photos):
    """Files do not outlive the page: it asks for them."""
    hold_uploads(edit_page)
    paint(edit_page, prompt="Make it green")
    edit_page.wait_for_selector("text=Uploading the references")
    edit_page.reload()
    edit_page.wait_for_selector("text=Not sent")
    edit_page.get_by_role("button", name="Try again").click()
    edit_page.wait_for_selector(".references >> text=Add the references again")
    assert edit_page.evaluate("document.activeElement.className") == "drop"
    assert edit_page.input_value("#prompt") == "Make it green"
    add_references(edit_page, photos)
    edit_page.wait_for_selector(".references .fault", state="detached")


def test_another_tab(edit_page, service):
    """It does not take what is being sent for lost, and follows it from then on."""
    hold_uploads(edit_page)
    paint(edit_page)
    edit_page.wait_for_selector("text=Uploading the references")
    other = edit_page.context.new_page()
    other.goto(service.url)
    other.wait_for_selector("text=Uploading the references")
    other.wait_for_timeout(500)
    assert other.locator("text=Not sent").count() == 0
    edit_page.unroute(INITIATE)  # lets go of what is held
    finished(edit_page)
    finished(other)


def test_the_key_is_refused_meanwhile(edit_page, shoot):
    refusal = {"status": 401, "json": {"detail": "invalid key credentials"}}
    edit_page.route(INITIATE, lambda route: route.fulfill(**refusal))
    paint(edit_page)
    edit_page.wait_for_selector("text=This key is not accepted")
    edit_page.set_viewport_size(PHONE)
    edit_page.locator(".run").scroll_into_view_if_needed()
    shoot(edit_page, "33-phone-key-refused")
    edit_page.set_viewport_size(DESKTOP)
    edit_page.unroute(INITIATE)
    assert edit_page.get_by_role("button", name="Enter a key").count() == 1
    assert len(try_again(edit_page)) == 2
    finished(edit_page)


def test_a_file_that_is_too_large(edit_page):
    """It is said where the file can be removed; sending it again is not advised."""
    detail = "The file has more than 9 bytes. Send a smaller file."
    answer = {"status": 413, "json": {"detail": detail, "error_type": "bad_request"}}
    edit_page.route(
        UPLOADED,
        lambda route: (
            route.fulfill(**answer) if route.request.method == "PUT" else route.continue_()
        ),
    )
    paint(edit_page)
    edit_page.wait_for_selector("text=The file is too large")
    edit_page.wait_for_selector(f".notice >> text={detail}")
    assert "again" not in edit_page.locator(".notice").inner_text().lower()
    edit_page.get_by_role("button", name="Edit").click()
    edit_page.wait_for_selector(f".references >> text={detail}")
    assert edit_page.evaluate("document.activeElement.className") == "drop"


def test_a_request_that_is_not_taken(visit):
    page = visit()
    answer = {"status": 400, "json": {"detail": "the address of the webhook is bad"}}
    page.route("**/queue/fal-ai/glm-image", lambda route: route.fulfill(**answer))
    paint(page)
    page.wait_for_selector("text=The address of the webhook is bad.")
    assert "again" not in page.locator(".notice").inner_text().lower()
