"""People use the page: paint, watch, cancel, edit; a wrong key, a refused prompt, a reload."""

import json
import re
import subprocess

from glmimage.types import image_seed

from .painting import PROMPT, SLOW, ask, finished, paint

HAND_OVER = """async ([kind, carried, name]) => {
  const canvas = new OffscreenCanvas(64, 64);
  canvas.getContext("2d").fillRect(0, 0, 64, 64);
  const carrier = new DataTransfer();
  carrier.items.add(new File([await canvas.convertToBlob()], name, { type: "image/png" }));
  const make = kind === "paste" ? ClipboardEvent : DragEvent;
  const options = { [carried]: carrier, bubbles: true, cancelable: true };
  document.dispatchEvent(new make(kind, options));
}"""


def test_the_printed_link_carries_the_key(visit, service, shoot):
    (line,) = [line for line in service.printed if line.strip().startswith("page")]
    assert line.split()[1] == f"{service.url}/#key={service.target.api_key}"
    page = visit()
    assert "key" not in page.url
    page.reload()
    page.wait_for_selector("text=Key >> visible=true")
    assert page.locator("dialog").count() == 0
    shoot(page, "01-welcome")


def test_paint_and_watch(visit, service, shoot):
    page = visit()
    with service.paused():
        paint(page, num_images=2, steps=SLOW)
        page.wait_for_selector("text=Next in the queue")
        shoot(page, "02-queued")
    page.wait_for_selector("img.preview")
    with service.paused():
        # a function: what is no function is evaluated again and again, which the page's policy bars
        page.wait_for_function("() => document.querySelector('img.preview').naturalWidth === 256")
        shoot(page, "03-preview")
    page.wait_for_selector("text=/about .* left/")
    with service.paused():
        bars = page.locator("[role=progressbar]").all()
        assert len(bars) == 2
        assert all(30 <= int(bar.get_attribute("aria-valuenow")) < 100 for bar in bars)
        texts = [bar.get_attribute("aria-valuetext") for bar in bars]
        assert re.search(r"step \d+ of 40", " ".join(texts))  # either may be the first
        shoot(page, "04-painting")
    finished(page, 2)
    assert page.locator(".timings").inner_text().count("$0.079") == 1
    shoot(page, "05-done")


def test_after_painting(visit, service, shoot):
    page = visit()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    paint(page, num_images=2)
    finished(page, 2)
    seed = int(re.search(r"seed (\d+)", page.locator(".run-facts").inner_text())[1])
    page.locator("text=Copy seed").nth(1).click()
    page.wait_for_selector("text=Copied")
    assert page.evaluate("navigator.clipboard.readText()") == str(image_seed(seed, 1))
    with page.expect_download() as download:
        page.locator("text=Download").first.click()
    assert download.value.suggested_filename == f"glmimage-{seed}.jpg"

    page.click("text=The same call as code")
    assert f'"seed": {seed}' in page.locator(".code pre").inner_text()
    shoot(page, "06-code")
    page.locator(".code .segment").nth(2).click()
    command = page.locator(".code pre").inner_text()
    done = subprocess.run(
        ["sh", "-c", command],
        env={"PATH": "/usr/bin:/bin", "FAL_KEY": service.target.api_key},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert json.loads(done.stdout)["seed"] == seed

    page.locator("text=Use as reference").first.click()
    page.wait_for_selector(".reference")
    page.locator("text=Vary").first.click()
    page.wait_for_function("() => document.querySelectorAll('.past').length === 2")
    finished(page, 2)
    assert f"seed {seed}" not in page.locator(".run-facts").inner_text()


def test_cancel(visit, shoot):
    page = visit()
    paint(page, steps=SLOW)
    page.wait_for_selector("text=/Painting, step/")
    page.click("text=Cancel")
    page.wait_for_selector("text=Nothing is charged.")
    assert page.locator("[role=progressbar]").count() == 0
    shoot(page, "07-cancelled")


def test_edit_with_two_references(visit, photos, shoot):
    page = visit()
    page.set_input_files("input[type=file]", photos)
    page.wait_for_function("() => document.querySelectorAll('.reference').length === 2")
    assert page.locator(".reference img").first.get_attribute("alt") == "Subject: house.png"
    move = page.get_by_role("button", name="Move Reference 2 forward")
    move.focus()
    page.keyboard.press("Enter")
    assert page.locator(".reference img").first.get_attribute("alt") == "Subject: hills.png"
    assert "hills.png is now the subject" in page.locator("[aria-live]").inner_text()
    page.get_by_role("button", name="Other background").click()
    assert "background" in page.input_value("#prompt")
    shoot(page, "08-references")
    with page.expect_request(lambda request: request.url.endswith("/image-to-image")) as sent:
        paint(page, prompt="Apply a watercolor style while preserving the subject")
    urls = json.loads(sent.value.post_data)["image_urls"]
    assert [url.rpartition("/")[2] for url in urls] == ["hills.png", "house.png"]
    finished(page)
    assert page.locator(".run-references img").count() == 2
    shoot(page, "09-edited")


def test_dropped_and_pasted(visit, shoot):
    page = visit()
    for event, carried in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        before = page.locator(".reference").count()
        page.evaluate(HAND_OVER, [event, carried, f"{event}.png"])
        page.wait_for_function(
            "n => document.querySelectorAll('.reference').length === n", arg=before + 1
        )
    assert page.locator(".reference img").last.get_attribute("alt") == "Reference 2: paste.png"
    bad = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}
    page.set_input_files("input[type=file]", files=[bad])
    page.wait_for_selector("text=notes.txt could not be opened as a picture")


def test_a_wrong_key(visit, shoot):
    page = visit(key=False)
    page.wait_for_selector("dialog[open]")
    page.fill("#key", "not-a-key")
    page.click("text=Use this key")
    page.wait_for_selector("text=This key is not accepted")
    shoot(page, "10-wrong-key")


def test_refused_and_invalid(visit, shoot):
    page = visit()
    page.click("button[type=submit]")
    page.wait_for_selector("text=Describe the picture first.")
    assert page.evaluate("document.activeElement.id") == "prompt"
    ask(page)
    page.check("input[value=custom]")
    page.fill("[aria-label='width in pixels']", "700")
    page.click("button[type=submit]")
    page.wait_for_selector("text=The width must be a multiple of 32: 672 or 704.")
    shoot(page, "11-invalid")
    paint(page, prompt="a nude woman")
    page.wait_for_selector("text=This prompt was refused")
    shoot(page, "12-refused")
    page.get_by_role("button", name="Edit").click()
    assert page.evaluate("document.activeElement.id") == "prompt"


def test_reload(visit, http, shoot):
    """What is under way goes on; what was painted is shown again, or said to have expired."""
    page = visit()
    paint(page, steps=SLOW)
    page.wait_for_selector("text=/Painting, step/")
    page.reload()
    page.wait_for_selector("text=/Painting, step/")
    finished(page)
    page.wait_for_selector(".past img")
    page.reload()
    finished(page)
    page.wait_for_selector(".past img")
    address = page.locator(".finished img").get_attribute("src")
    request_id = page.evaluate(
        """() => new Promise(done => { indexedDB.open('glmimage', 1).onsuccess = event =>
        event.target.result.transaction('runs').objectStore('runs').getAll().onsuccess =
        found => done(found.target.result[0].requestId) })"""
    )
    gone = http.delete(f"/platform/v1/models/requests/{request_id}/payloads")
    assert gone.status_code == 200
    assert http.get(address).status_code == 404
    page.route("**/files/b/**", lambda route: route.continue_())  # and no cache of the browser's
    page.reload()
    page.wait_for_selector("text=This picture has expired")
    shoot(page, "13-expired")


def test_operations(visit, http, shoot):
    endpoint = "/queue/fal-ai/glm-image?fal_webhook=http://127.0.0.1:9/hook"
    http.post(endpoint, json={"prompt": "x", "image_size": "square", "num_images": 9})
    page = visit()
    page.click("text=Operations")
    for name in ("Queue", "Workers", "Usage by key", "Recent failures", "Webhook deliveries"):
        page.wait_for_selector(f"section[aria-label='{name}']")
    page.wait_for_selector("text=num_images: Input should be less than or equal to 4")
    page.wait_for_selector("text=http://127.0.0.1:9/hook")
    shoot(page, "14-operations")


def test_operations_of_others(visit, service, shoot):
    """An ordinary key is told whom to ask."""
    page = visit()
    page.route("**/operator/**", lambda route: route.fulfill(status=403, json={"detail": "Ask."}))
    page.click("text=Operations")
    page.wait_for_selector("text=This key may not see that")


def test_phone(visit, shoot):
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    shoot(page, "15-phone-welcome")
    paint(page, num_images=2)
    finished(page, 2)
    page.locator(".run").scroll_into_view_if_needed()
    shoot(page, "16-phone-done")
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0
    page.click("text=Operations")
    page.wait_for_selector("section[aria-label=Workers]")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    shoot(page, "17-phone-operations")


def test_keyboard_alone(visit):
    """Size, number, seed lock and sending, without a mouse."""
    page = visit()
    page.focus("#prompt")
    page.keyboard.type(PROMPT)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "image_size":
            break
    page.keyboard.press("ArrowRight")
    assert page.locator("input[name=image_size]:checked").get_attribute("value") == "square"
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("button", name="Paint 2 pictures").count() == 1
    page.keyboard.press("ArrowLeft")
    page.focus("#steps")
    page.keyboard.press("Home")
    page.focus("#seed")
    page.keyboard.type("42")
    page.keyboard.press("Control+Enter")
    finished(page)
    assert "seed 42" in page.locator(".run-facts").inner_text()
    assert "10 steps" in page.locator(".run-facts").inner_text()


def test_the_time_left_counts_what_is_painted_before(visit):
    """Whichever picture is begun first; a step takes a second here."""
    left = visit().evaluate(
        """async () => {
      const page = document.querySelector("script[type=module]").src;
      const { readLogs, outlook } = await import(new URL("progress.js", page));
      const log = (step) => (
        { message: `picture 2/3: step ${step}/10`, timestamp: `2026-01-01T00:00:0${step}Z` });
      const state = readLogs([log(1), log(2)], 3);
      return [0, 1, 2].map((index) => outlook(state, index, 0, 10, null));
    }"""
    )
    expected = [("wait", 18), ("paint", 8), ("wait", 28)]
    assert [(one["stage"], round(one["seconds"])) for one in left] == expected
