// One request: while it works, and what it came to.
import { hasKey } from "./api.js";
import { money } from "./composer.js";
import { Icon } from "./icons.js";
import { copyText, download, fetchPicture } from "./pictures.js";
import { fraction, inWords, outlook } from "./progress.js";
import { cancelRun, isActive, knownStep, markExpired } from "./runs.js";
import { imageSeed } from "./seeds.js";
import { sizeOf } from "./sizes.js";
import { curl, javascript, python } from "./snippets.js";
import { html, useEffect, useState } from "./vendor/preact-htm.js";

export function RunView({ run, actions }) {
  const { width, height } = sizeOf(run.input.image_size);
  const pictures = [...Array(run.input.num_images).keys()];
  const beside = pictures.length === 1 && width <= 1.1 * height;
  return html`<article class=${`run ${beside ? "beside" : ""}`} aria-label="Request">
    <header class="run-head">
      <div>
        <h2 class="run-prompt">${run.input.prompt}</h2>
        <p class="run-facts">${facts(run, width, height)}</p>
      </div>
      ${isActive(run) && html`<button type="button" class="quiet" disabled=${run.cancelled} onClick=${() => cancelRun(run.id)}>
        <${Icon} name="cancel" />${run.cancelled ? "Cancelling" : "Cancel"}</button>`}
    </header>
    <${State} run=${run} actions=${actions} />
    ${(isActive(run) || run.state === "done") && html`<div class=${`pictures n${pictures.length}`}>
      ${pictures.map((index) => html`<${Picture} key=${index} run=${run} index=${index} width=${width} height=${height} actions=${actions} />`)}
    </div>`}
    <div class="run-side">
    ${run.references.length > 0 && html`<div class="run-references"><span>Made from</span>
      ${run.references.map((one, index) => html`<img src=${one.thumb} alt=${index ? `Reference ${index + 1}` : "Subject"} />`)}</div>`}
    ${run.state === "done" && html`<${Timings} run=${run} />`}
    ${run.state === "done" && html`<${Code} run=${run} />`}
    </div>
  </article>`;
}

function facts(run, width, height) {
  const parts = [`${width} × ${height}`, `${run.input.num_inference_steps} steps`, `guidance ${run.input.guidance_scale}`];
  if (run.result) parts.push(`seed ${run.result.seed}`);
  if (run.servedFrom) parts.push(`from stored pictures (${run.servedFrom})`);
  return parts.join("  ·  ");
}

function State({ run, actions }) {
  if (run.state === "failed" || run.state === "cancelled") {
    const { title, text, kind } = run.error;
    return html`<div class=${`notice ${run.state}`} role=${run.state === "failed" ? "alert" : "status"}>
      <${Icon} name=${run.state === "failed" ? "warn" : "cancel"} />
      <div><strong>${title}</strong><p>${text}</p></div>
      ${kind === "key" && html`<button type="button" class="quiet" onClick=${actions.askKey}>Enter a key</button>`}
      <button type="button" class="quiet" onClick=${() => actions.again(run)}>${kind === "refused" || kind === "input" ? "Edit" : "Try again"}</button>
    </div>`;
  }
  if (run.result && run.result.prompt !== run.input.prompt) {
    return html`<details class="expanded"><summary>Painted from an expanded prompt</summary><p>${run.result.prompt}</p></details>`;
  }
  return null;
}

/** Return what a request is doing, in words. */
export function doing(run) {
  if (run.cancelled) return "Cancelling";
  if (run.state === "uploading") return run.references.length > 1 ? "Uploading the references" : "Uploading the reference";
  if (run.state === "queued") {
    if (run.position === undefined) return "Sending";
    return run.position === 0 ? "Next in the queue" : `${run.position} ahead in the queue`;
  }
  return "Working";
}

function Picture({ run, index, width, height, actions }) {
  // as large as the window has room for, whatever its form
  const frame = { "--w": width, "--h": height };
  if (run.state !== "done") return html`<${Growing} run=${run} index=${index} frame=${frame} />`;
  const image = run.result.images[index];
  return image && html`<${Finished} run=${run} index=${index} image=${image} frame=${frame} actions=${actions} />`;
}

function Growing({ run, index, frame }) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 500);
    return () => clearInterval(timer);
  }, []);
  const { progress } = run;
  const name = run.input.num_images > 1 ? `Picture ${index + 1}` : "Picture";
  let text = doing(run);
  let share = 0;
  let left = "";
  if (run.state === "running" && progress && !run.cancelled) {
    share = fraction(progress, index);
    const since = (now - (run.heardAt ?? now)) / 1000;
    const { stage, seconds } = outlook(progress, index, since, run.input.num_inference_steps, knownStep(run));
    text = stageText(stage, progress, index);
    left = run.live?.connected === false ? "" : seconds === null ? "" : inWords(seconds);
  }
  if (run.live?.connected === false) text = "Waiting for the server to come back";
  const preview = run.previews[index];
  return html`<figure class="picture" style=${frame}>
    <div class=${`canvas growing ${preview ? "has-preview" : ""}`}>
      ${preview
        ? html`<img class=${`preview ${preview.number ? "nearer" : ""}`} src=${preview.url} style=${{ "--sharp": share }}
          alt=${`${name}: ${preview.number ? "what it is becoming" : "preview of the layout"}`} />`
        : html`<${Cells} share=${progress?.prior ?? 0} />`}
      <div class="growing-foot">
        <div class="growing-text"><span>${text}</span><span class="left">${left}</span></div>
        <div class="bar" role="progressbar" aria-label=${name} aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.round(share * 100)}
          aria-valuetext=${[text, left].filter(Boolean).join(", ")}>
          <span style=${{ transform: `scaleX(${share})` }}></span></div>
      </div>
    </div>
  </figure>`;
}

function stageText(stage, progress, index) {
  if (stage === "layout") return progress.prior ? `Writing the layout, ${Math.round(progress.prior * 100)} %` : "Writing the layout";
  if (stage === "wait") return "Waiting for the picture before";
  if (stage === "finish") return "Finishing";
  return progress.numSteps ? `Painting, step ${progress.steps[index]} of ${progress.numSteps}` : "Painting";
}

/** Show the layout's cells as they are written: as many as are. */
function Cells({ share }) {
  const written = Math.round(share * 64);
  return html`<div class="cells" aria-hidden="true">${[...Array(64).keys()].map((cell) => html`<i class=${cell < written ? "on" : ""}></i>`)}</div>`;
}

function Finished({ run, index, image, frame, actions }) {
  const [copied, setCopied] = useState(false);
  const [fault, setFault] = useState("");
  const seed = imageSeed(run.result.seed, index);
  const several = run.input.num_images > 1;
  const name = several ? `Picture ${index + 1}` : "Picture";
  const black = run.result.has_nsfw_concepts?.[index];
  const copySeed = async () => {
    await copyText(seed);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  /** Do what needs the picture's content; without it, say why. */
  const withPicture = async (use, say = setFault) => {
    say("");
    try {
      await use();
    } catch (error) {
      if (!error.gone) return say(error.message);
      markExpired(run.id);
      actions.announce("This picture has expired.");
    }
  };
  if (run.expired) {
    return html`<figure class="picture" style=${frame}>
      <div class="canvas expired">${run.thumbs[index] && html`<img src=${run.thumbs[index]} alt=${`${name}: small copy`} />`}
        <div class="expired-note"><strong>This picture has expired</strong><p>The server keeps pictures for a time only. The same seed paints it again.</p>
          <button type="button" class="quiet" onClick=${() => actions.repaint(run)}>Paint it again</button></div></div>
    </figure>`;
  }
  const fileName = `glmimage-${seed}.${run.input.output_format === "png" ? "png" : "jpg"}`;
  return html`<figure class="picture" style=${frame}>
    <button type="button" class="canvas finished" aria-label=${`${name}, open large`} onClick=${() => actions.open(image.url, `${name}: ${run.input.prompt}`)}>
      <img src=${image.url} alt=${`${name}: ${run.input.prompt}`} onError=${() => withPicture(() => fetchPicture(image.url), () => {})} />
    </button>
    ${black && html`<p class="fault"><${Icon} name="warn" />The picture check found it unsafe and blacked it out. Change the prompt or the seed.</p>`}
    <figcaption class="tools">
      <button type="button" class="tool" onClick=${() => withPicture(() => download(image.url, fileName))}><${Icon} name="download" /><span>Download</span></button>
      <button type="button" class="tool" onClick=${copySeed} title=${`Seed ${seed}`}><${Icon} name=${copied ? "check" : "copy"} /><span>${copied ? "Copied" : "Copy seed"}</span></button>
      <button type="button" class="tool" onClick=${() => actions.vary(run)}><${Icon} name="vary" /><span>Vary</span></button>
      <button type="button" class="tool" onClick=${() => withPicture(() => actions.useAsReference(image.url, `${name} of seed ${seed}`))}><${Icon} name="reference" /><span>Use as reference</span></button>
    </figcaption>
    ${fault && html`<p class="fault" role="alert"><${Icon} name="warn" />${fault}</p>`}
  </figure>`;
}

function Timings({ run }) {
  const { timings } = run.result;
  const stages = [["prior", "Layout"], ["denoise", "Painting"], ["decode", "Pixels"]].filter(([name]) => timings[name] !== undefined);
  const total = stages.reduce((sum, [name]) => sum + timings[name], 0) || 1;
  const waited = run.startedAt && run.sentAt ? Math.max(0, (run.startedAt - run.sentAt) / 1000) : null;
  return html`<section class="timings" aria-label="Cost and timings">
    ${stages.length > 0 && html`<div class="stacked" aria-hidden="true">${stages.map(([name]) => html`<i class=${name} style=${{ flexGrow: timings[name] / total }}></i>`)}</div>`}
    <dl>
      ${stages.map(([name, label]) => html`<div class=${name}><dt>${label}</dt><dd>${seconds(timings[name])}</dd></div>`)}
      ${waited !== null && html`<div><dt>Waited</dt><dd>${seconds(waited)}</dd></div>`}
      ${timings.inference !== undefined && html`<div><dt>In all</dt><dd>${seconds(timings.inference)}</dd></div>`}
      <div><dt>Cost</dt><dd>${money(run.cost ?? 0)}</dd></div>
    </dl>
  </section>`;
}

const seconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;

function Code({ run }) {
  const [language, setLanguage] = useState("Python");
  const [copied, setCopied] = useState(false);
  const input = { ...run.input, seed: run.result.seed };
  const text = {
    Python: () => python(run.endpoint, input),
    JavaScript: () => javascript(run.endpoint, input),
    curl: () => curl(run.endpoint, input, hasKey()),
  }[language]();
  const copy = async () => {
    await copyText(text);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return html`<details class="code"><summary><${Icon} name="code" />The same call as code</summary>
    <div class="code-head">
      <div class="segments" role="group" aria-label="Language">
        ${["Python", "JavaScript", "curl"].map((one) => html`<label class="segment"><input type="radio" name=${`language-${run.id}`}
          checked=${one === language} onChange=${() => setLanguage(one)} /><span>${one}</span></label>`)}
      </div>
      <button type="button" class="quiet" onClick=${copy}><${Icon} name=${copied ? "check" : "copy"} />${copied ? "Copied" : "Copy"}</button>
    </div>
    <pre tabindex="0" aria-label=${`${language} code`}><code>${text}</code></pre>
  </details>`;
}
