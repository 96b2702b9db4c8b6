"""Fill the page's form, send it, and wait for its pictures."""

PROMPT = "A poster with the headline 'OPEN'"
FAST = 10
SLOW = 40


def ask(page, prompt=PROMPT, steps=FAST, num_images=1):
    """Fill the form with a small picture."""
    page.fill("#prompt", prompt)
    page.check("input[name=image_size][value=square]")
    page.fill("[aria-label='Steps, exact value']", str(steps))
    page.locator("input[name=num_images]").nth(num_images - 1).check()


def paint(page, **options):
    ask(page, **options)
    page.click("button[type=submit]")


def add_references(page, paths):
    page.set_input_files("input[type=file]", paths)
    page.wait_for_function(
        "n => document.querySelectorAll('.reference').length === n", arg=len(paths)
    )


def finished(page, num_images=1):
    """Wait for the pictures, really loaded."""
    page.wait_for_function(
        "n => { const all = [...document.querySelectorAll('.finished img')];"
        " return all.length === n && all.every(i => i.complete && i.naturalWidth) }",
        arg=num_images,
    )
