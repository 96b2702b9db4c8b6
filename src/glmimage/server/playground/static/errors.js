// Failures in the viewer's words: what is wrong, and what to do.

/** Nobody answers at the server's address. */
export class Unreachable extends Error {}

/** The server has answered with an error; see `explain`. */
export class ApiError extends Error {
  constructor(status, body, retryAfter = 0) {
    super(`${status}`);
    this.status = status;
    this.body = body ?? {};
    this.retryAfter = retryAfter;
  }

  get details() {
    return Array.isArray(this.body.detail) ? this.body.detail : [];
  }
}

const FIELDS = {
  prompt: "The prompt",
  image_size: "The size",
  width: "The width",
  height: "The height",
  num_inference_steps: "Steps",
  guidance_scale: "Guidance",
  seed: "The seed",
  num_images: "The number of pictures",
  image_urls: "A reference",
};

/** Return {kind, title, text, field}. field: of the input, when one is to blame. */
export function explain(error) {
  if (error instanceof Unreachable) {
    return say("offline", "The server does not answer", "The page tries again by itself.");
  }
  if (!(error instanceof ApiError)) {
    return say("page", "Something went wrong in this page", `${error?.message ?? error}. Load the page again.`);
  }
  const first = error.details[0];
  if (first) return ofInput(first, error);
  const text = typeof error.body.detail === "string" ? error.body.detail : "";
  switch (error.status) {
    case 400:
      return say("input", "The server did not take this request", sentence(text) || "It gave no reason.");
    case 401:
      return say("key", "This key is not accepted", "Enter a valid key; whoever runs the server can make one with: glmimage keys create NAME");
    case 403:
      return say("rights", "This key may not see that", text);
    case 404:
      return say("gone", "The server does not know this request any more", "Its time is over. Paint it again: the same seed gives the same picture.");
    case 413: // forms are small: it is a file
      return say("input", "The file is too large", sentence(text) || "Send a smaller file.", "image_urls");
    case 429:
      return say("busy", "The server takes no more requests now", `${text} ${retry(error)}`.trim());
    case 499:
      return say("cancelled", "Cancelled", "Nothing is charged.");
    case 503:
      return say("worker", "Nobody can paint now", text || "Try again later.");
    case 504:
      return say("slow", "It took too long", `${text} Try again.`.trim());
    default:
      return say("server", "The server failed", `${text || `It answered ${error.status}.`} Try again.`);
  }
}

function ofInput(detail, error) {
  const field = detail.loc?.find((part) => part in FIELDS) ?? "";
  if (detail.type === "content_policy_violation") {
    return say("refused", "This prompt was refused", sentence(detail.msg), "prompt");
  }
  if (error.status >= 500) {
    return say("server", "The picture could not be made", `${sentence(detail.msg)} Try again.`);
  }
  const last = detail.loc?.at(-1);
  const name = FIELDS[last] ?? FIELDS[field] ?? "The request";
  return say("input", `${name} cannot be used`, `${sentence(detail.msg)} Change it and try again.`, field);
}

function retry(error) {
  return error.retryAfter ? `Try again in ${error.retryAfter} s.` : "Try again later.";
}

function sentence(text) {
  const plain = String(text ?? "").replace(/^(Value error, )/, "").trim();
  if (!plain) return "";
  const first = plain[0].toUpperCase() + plain.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

function say(kind, title, text, field = "") {
  return { kind, title, text: text.trim(), field };
}
